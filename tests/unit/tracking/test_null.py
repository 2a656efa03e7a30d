"""The null tracker, and lazy imports of the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from distmeta.config.tracking import TrackingConfig
from distmeta.tracking import MlflowTracker, NullTracker, build_tracker


def test_the_null_tracker_records_nothing(tmp_path: Path) -> None:
    tracker = build_tracker(TrackingConfig(kind="none"))
    assert isinstance(tracker, NullTracker)
    assert tracker.start("name", {}, None) == ""
    assert tracker.start("name", {}, "id") == ""
    tracker.log(1, {"loss": 0.5})
    tracker.text("text", "name")
    assert tracker.pending() == []
    tracker.artifact(tmp_path / "none", "folder")
    tracker.model(tmp_path / "none", "model")
    assert tracker.address() is None
    tracker.close("KILLED")
    assert list(tmp_path.iterdir()) == []


def test_building_a_tracker_imports_and_opens_nothing(tmp_path: Path) -> None:
    assert isinstance(build_tracker(TrackingConfig()), MlflowTracker)
    code = (
        "import sys, distmeta.tracking as t; from distmeta.config import TrackingConfig as C; t.build_tracker(C());"
        "import distmeta.tracking.plots, distmeta.tracking.ui;"
        "assert not {'mlflow', 'matplotlib', 'torch', 'ray'} & set(sys.modules), sorted(sys.modules)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, check=True)
    assert list(tmp_path.iterdir()) == []
