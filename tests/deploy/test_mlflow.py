"""MLflow's server: systemd's and compose's own parsers where they are installed, and what both files promise."""

from __future__ import annotations

import configparser
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import distmeta

from ..packages import Later
from .deployed import CLUSTER, constraints, pins, read_documents, read_yaml, text_files

mlflow_cli = Later("mlflow.cli")
UNIT = CLUSTER / "mlflow" / "mlflow.service"
SERVICE_FIELDS = {"image", "environment", "secrets", "volumes", "networks", "healthcheck", "restart"}


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def environment(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def server_parameters() -> list[click.Parameter]:
    """The options of `mlflow server`."""
    return mlflow_cli.cli.commands["server"].params


def test_the_unit_is_hardened_and_listens_on_loopback() -> None:
    parsed = unit()
    assert parsed.sections() == ["Unit", "Service", "Install"]
    service = dict(parsed["Service"])
    assert service["ExecStart"].split()[1:4] == ["server", "--host", "127.0.0.1"]
    assert service["User"] == service["Group"] == "mlflow"
    assert service["EnvironmentFile"] == "/etc/distmeta/mlflow.env"
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictSUIDSGID"):
        assert service[name] == "true"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    written = [word for word in service["ExecStart"].split() if word.startswith("/var")]
    assert all(word.startswith(f"/var/lib/{service['StateDirectory']}/") for word in written)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    copy = tmp_path / "mlflow.service"  # systemd looks for the program, too
    copy.write_text(UNIT.read_text().replace("/opt/mlflow/bin/mlflow", sys.executable))
    checked = subprocess.run([tool, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_options_of_the_server_exist() -> None:
    texts = [path.read_text() for path in text_files() if path.suffix in (".service", ".yaml", ".sh")]
    lines = [line.replace("\\\n", " ") for text in texts for line in re.findall(r"mlflow server((?:.*\\\n)*.*)", text)]
    arguments = read_documents("kubernetes/mlflow.yaml")[3]["spec"]["template"]["spec"]["containers"][0]["args"]
    used = set(re.findall(r"(--[a-z-]+)", " ".join([*lines, *arguments])))
    known = {option for parameter in server_parameters() for option in parameter.opts}
    assert {"--host", "--port", "--artifacts-destination", "--allowed-hosts"} <= used <= known


def test_variables_of_the_server_exist() -> None:
    known = {
        *vars(importlib.import_module("mlflow.environment_variables")),
        *(parameter.envvar for parameter in server_parameters()),
    }
    for path in text_files():
        assert set(re.findall(r"\bMLFLOW_[A-Z_]+[A-Z]", path.read_text())) <= known, path
    assert environment(CLUSTER / "mlflow" / "mlflow.env.example").keys() <= known


def test_compose_publishes_on_loopback_and_keeps_the_password_in_a_file() -> None:
    compose = read_yaml("mlflow/compose.yaml")
    assert compose.keys() == {"name", "services", "networks", "volumes", "secrets"}
    services = compose["services"]
    assert services.keys() == {"postgres", "mlflow"}
    for service in services.values():
        assert service.keys() >= SERVICE_FIELDS
        assert set(service["secrets"]) <= compose["secrets"].keys()
        assert set(service["networks"]) <= compose["networks"].keys()
        assert {volume.split(":")[0] for volume in service["volumes"]} <= compose["volumes"].keys()
        assert not [key for key in service["environment"] if key.endswith("PASSWORD")]
    assert services["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in services["postgres"]
    assert compose["networks"]["database"]["internal"]
    assert services["mlflow"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["mlflow"]["image"] == f"distmeta-mlflow:{distmeta.__version__}"
    assert compose["secrets"] == {"postgres_password": {"file": "./secrets/postgres_password"}}


def test_the_shell_of_compose_puts_the_address_together(tmp_path: Path) -> None:
    shell, flags, script = read_yaml("mlflow/compose.yaml")["services"]["mlflow"]["command"]
    (tmp_path / "password").write_text("example")
    script = script.replace("$$", "$").replace("/run/secrets/postgres_password", str(tmp_path / "password"))
    script = script.replace("exec mlflow", 'echo "$MLFLOW_BACKEND_STORE_URI" #')
    done = subprocess.run([shell, flags, script], capture_output=True, text=True, check=True)
    assert done.stdout == "postgresql://mlflow:example@postgres:5432/mlflow\n"


def test_compose_itself_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no docker compose")
    file = str(CLUSTER / "mlflow" / "compose.yaml")
    subprocess.run([docker, "compose", "--file", file, "config", "--quiet"], check=True)


def test_the_server_has_the_tested_mlflow_and_drivers_that_no_other_pin_contradicts() -> None:
    text = (CLUSTER / "mlflow" / "requirements.txt").read_text()
    assert re.search(r"^mlflow$", text, re.MULTILINE)  # the version is that of the constraints
    assert pins(text).keys() == {"boto3", "psycopg2-binary"}
    assert all(constraints().get(name, version) == version for name, version in pins(text).items())
