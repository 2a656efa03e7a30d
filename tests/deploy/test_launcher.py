"""Ray's cluster launcher: its own parser takes the files, and what they say of security and spot nodes."""

from __future__ import annotations

import subprocess
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from .deployed import CLUSTER, ROOT, read_yaml

FILES = ["ray/onprem.yaml", "ray/aws.yaml", "ray/gcp.yaml"]
CLOUDS = FILES[1:]


def commands(config: dict[str, Any]) -> dict[str, list[str]]:
    return {key: value for key, value in config.items() if key.endswith("_commands")}


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    config = prepare_config(read_yaml(name))
    validate_config(config)
    assert all(key in config for key in ("head_start_ray_commands", "worker_start_ray_commands"))


def test_ray_would_refuse_an_unknown_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config({**read_yaml(FILES[1]), "max_worker": 3}))


@pytest.mark.parametrize("name", FILES)
def test_commands_are_shell(name: str) -> None:
    for key, lines in commands(read_yaml(name)).items():
        for line in lines:
            checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, (key, line, checked.stderr)


@pytest.mark.parametrize("name", FILES)
def test_nodes_have_the_token_and_the_tested_versions(name: str) -> None:
    config = read_yaml(name)
    mounts, setup = config["file_mounts"], "\n".join(config["setup_commands"])
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in setup
    assert "RAY_AUTH_MODE=token" in setup
    for variable in ("RAY_worker_niceness=0", "RAY_USAGE_STATS_ENABLED=0", "OMP_NUM_THREADS=1", "DISTMETA_RUNS="):
        assert variable in setup
    installs = [line for line in config["setup_commands"] if "pip install" in line]
    assert installs and all("-c ~/distmeta/constraints.txt" in line for line in installs)
    for remote, local in mounts.items():
        if not local.startswith("~") and local != "dist":  # made by `pip wheel`
            assert (ROOT / local).is_file(), remote
    assert not [local for local in mounts.values() if "data" in local]


@pytest.mark.parametrize("name", FILES)
def test_every_ray_command_runs_with_the_environment_and_the_head_listens_on_loopback(name: str) -> None:
    config = read_yaml(name)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all(line.startswith(". ~/distmeta/env") for line in starts)
    (head,) = [line for line in starts if "ray start --head" in line]
    assert "--dashboard-host=127.0.0.1" in head and "--num-cpus=0" in head
    (mlflow,) = [line for line in config["head_setup_commands"] if "mlflow server" in line]
    assert "--host 127.0.0.1 --port 5000" in mlflow
    assert "0.0.0.0" not in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_have_a_head_that_stays_and_gpu_workers_of_which_some_are_spot(name: str) -> None:
    types = read_yaml(name)["available_node_types"]
    assert set(types) == {"head", "gpu", "gpu_spot"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert all(types[one]["resources"]["GPU"] == 1 for one in ("gpu", "gpu_spot"))
    assert types["gpu"]["min_workers"] > 0
    assert types["gpu_spot"]["min_workers"] == 0 < types["gpu_spot"]["max_workers"]
    assert sum(one.get("max_workers", 0) for one in types.values()) == read_yaml(name)["max_workers"]
    spot = str(types["gpu_spot"]["node_config"]).lower()
    assert "spot" in spot
    assert "spot" not in str([types["head"], types["gpu"]]).lower()
