"""Jobs handed from one host to the head's job server, with the cluster's token and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from distmeta.config.load import to_yaml

from .drivers import sinusoid, undisturbed
from .raylets import RAY, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_job_from_another_host_runs_on_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    config = sinusoid(tmp_path / "runs", "submitted", "train.steps=100")
    package = tmp_path / "package"
    package.mkdir()
    (package / "job.yaml").write_text(to_yaml(config))
    submit = [*RAY, "job", "submit", "--address", cluster.jobs, "--working-dir", str(package)]
    done = cluster.run(cluster.host("one"), *submit, "--", "python", "-m", "distmeta", "train", "job.yaml", "--json")
    assert f'"digest": "{undisturbed(config, 100)}"' in done.stdout


@pytest.mark.parametrize("token", [None, "0" * 64], ids=["without", "wrong"])
def test_a_job_without_the_token_is_refused(cluster: Cluster, tmp_path: Path, token: str | None) -> None:
    submit = [*RAY, "job", "submit", "--address", cluster.jobs, "--", "touch", str(tmp_path / "trace")]
    done = cluster.run(cluster.host("one"), *submit, token=token, check=False)
    assert done.returncode != 0
    assert "token" in done.stdout + done.stderr
    assert not (tmp_path / "trace").exists()
