"""Where things lie: what distmeta keeps for this user, and runs whose configuration names no absolute place.

A Ray job's working folder is a copy that the cluster throws away, so what is to last goes elsewhere. Environment:

    DISTMETA_HOME: The folder of stores, compiled graphs and downloads. Default: `~/.cache/distmeta`.
    DISTMETA_RUNS: The folder of runs, a local path or an fsspec URL. Relative `checkpoint.path`s lie in it, `runs`
        being this folder itself. Default: the working folder's `runs`; in a Ray job, `runs` in DISTMETA_HOME.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the driver of a submitted job, and for none of its workers."""
_RUNS = "runs"


def data_home() -> Path:
    """Return the folder of everything distmeta keeps for this user."""
    return Path(os.environ.get("DISTMETA_HOME") or Path.home() / ".cache" / "distmeta").expanduser()


def in_ray_job() -> bool:
    """Whether this process was started by `ray job submit`, `distmeta submit` or a RayJob of KubeRay."""
    return bool(os.environ.get(JOB_VARIABLE))


def runs_path(path: str) -> str:
    """Where a `checkpoint.path` leads to: an absolute path or URL as it is, a relative one in the folder of runs."""
    root = os.environ.get("DISTMETA_RUNS") or (str(data_home() / _RUNS) if in_ray_job() else "")
    if not root or "://" in path or path.startswith(("/", "~")):
        return path
    parts = PurePosixPath(path).parts
    return "/".join([root.rstrip("/"), *(parts[1:] if parts[:1] == (_RUNS,) else parts)])
