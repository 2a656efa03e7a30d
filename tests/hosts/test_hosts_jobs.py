"""Jobs handed from one host to the head's job server, with the cluster's token and without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distmeta.checkpoint import summaries
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


def test_a_job_sent_by_distmeta_runs_on_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    config = sinusoid(tmp_path / "runs", "sent", "train.steps=100")
    package = tmp_path / "package"
    package.mkdir()
    job = package / "job.yaml"
    job.write_text(to_yaml(config))
    submit = [sys.executable, "-m", "distmeta", "submit", str(job), "--working-dir", str(package)]
    cluster.run(cluster.host("one"), *submit, "--address", cluster.jobs, "--follow")
    [newest] = summaries(config.checkpoint.path)[-1:]
    assert (newest.step, newest.digest) == (100, undisturbed(config, 100))


@pytest.mark.parametrize("token", [None, "0" * 64], ids=["without", "wrong"])
def test_a_job_without_the_token_is_refused(cluster: Cluster, tmp_path: Path, token: str | None) -> None:
    submit = [*RAY, "job", "submit", "--address", cluster.jobs, "--", "touch", str(tmp_path / "trace")]
    done = cluster.run(cluster.host("one"), *submit, token=token, check=False)
    assert done.returncode != 0
    assert "token" in done.stdout + done.stderr
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("token", "reason"), [(None, "there is no token"), ("0" * 64, "the token is wrong")])
def test_distmeta_says_why_it_is_refused(cluster: Cluster, tmp_path: Path, token: str | None, reason: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(to_yaml(sinusoid(tmp_path / "runs", "refused")))
    submit = [sys.executable, "-m", "distmeta", "submit", str(job), "--working-dir", str(tmp_path)]
    done = cluster.run(cluster.host("one"), *submit, "--address", cluster.jobs, token=token, check=False)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert reason in line
