"""The dashboard asks for metrics that runs export, by labels that they have."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from distmeta.runtime.executor import Result
from distmeta.tracking.console import Progress
from distmeta.training.incidents import IncidentLog
from distmeta.training.watch import INTERVAL_S, Watch

from ..fakes_training import FakeExecutor, FakeTracker
from .deployed import CLUSTER, read_yaml

RUN_LABELS, WORKER_LABELS = {"run"}, {"run", "worker", "host"}


class Exporting(FakeExecutor):
    """Keeps the names of what it is given, each with its labels."""

    def export(self, run: str, metrics: Mapping[str, float], by_worker: Mapping[int, Mapping[str, float]]) -> None:
        self.names = {f"ray_distmeta_{name}": RUN_LABELS for name in metrics}
        self.names |= {f"ray_distmeta_{name}": WORKER_LABELS for values in by_worker.values() for name in values}


def exported() -> dict[str, set[str]]:
    executor, tracker = Exporting(), FakeTracker()
    incidents = IncidentLog(executor, tracker, Progress(1, quiet=True, console=Console(file=io.StringIO())), 0, {})
    watch = Watch("run", executor, tracker, incidents)
    watch.add([Result(0, None, 0, 0.0, 1.0)], 1.0, 1)
    watch.show(1)
    return executor.names


def test_every_panel_shows_what_runs_export() -> None:
    dashboard: dict[str, Any] = json.loads((CLUSTER / "monitoring" / "grafana.json").read_text())
    names, asked = exported(), set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            [name] = re.findall(r"ray_distmeta_\w+", target["expr"])
            labels = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            labels += re.findall(r"\w+", "".join(re.findall(r"by \((.*?)\)", target["expr"])))
            assert set(labels) <= names[name], panel["title"]
            asked.add(name)
    assert {"ray_distmeta_tasks_per_s", "ray_distmeta_retries", "ray_distmeta_worker_times_typical"} <= asked
    assert "ray_distmeta_step" in dashboard["templating"]["list"][1]["query"]
    boxes = [tuple(panel["gridPos"][side] for side in "xy") for panel in dashboard["panels"]]
    assert len(set(boxes)) == len(boxes)


def test_prometheus_asks_as_often_as_runs_export() -> None:
    config = read_yaml("monitoring/prometheus.yml")
    assert config["global"]["scrape_interval"] == f"{INTERVAL_S:.0f}s"
    [job] = config["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
