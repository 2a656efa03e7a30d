"""Folders that distmeta uses for its own data and for runs.

A Ray job's working folder is a copy that the cluster deletes, so data that must last is stored elsewhere. Environment:

    DISTMETA_HOME: Folder of stores, compiled graphs and downloads. Default: `~/.cache/distmeta`.
    DISTMETA_RUNS: Folder of runs, a local path or an fsspec URL. A relative `checkpoint.path` is resolved against it;
        `runs` is this folder itself. Default: the working folder's `runs`; in a Ray job, `runs` in DISTMETA_HOME.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path, PurePosixPath

from distmeta.core.errors import UserError

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the driver of a submitted job, and for none of its workers."""
_RUNS = "runs"


def data_home() -> Path:
    """The folder for everything distmeta stores for this user."""
    return expand_user(os.environ.get("DISTMETA_HOME") or "~/.cache/distmeta", where="DISTMETA_HOME")


def expand_user(path: str | os.PathLike[str], *, where: str | None = None) -> Path:
    """Replace `~` or `~user` at the beginning of a path by the user's home folder.

    Args:
        path: The path.
        where: What names the path, for the message; None takes the path itself.

    Raises:
        UserError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        what, allowed = f"the home folder of '{Path(path).parts[0]}' is unknown", "a path without '~'"
        raise UserError(what, where=where or os.fspath(path), allowed=allowed) from error


def in_ray_job() -> bool:
    """Whether this process was started by `ray job submit`, `distmeta submit` or a RayJob of KubeRay."""
    return bool(os.environ.get(JOB_VARIABLE))


def runs_path(path: str) -> str:
    """Resolve a `checkpoint.path`: absolute paths and URLs are unchanged, relative ones go into the folder of runs.

    Raises:
        UserError: It begins with the home folder of a user who does not exist.
    """
    expand_user(path, where=f"checkpoint.path: {path}")
    root = os.environ.get("DISTMETA_RUNS") or (str(data_home() / _RUNS) if in_ray_job() else "")
    expand_user(root, where="DISTMETA_RUNS")
    if not root or "://" in path or path.startswith(("/", "~")):
        return path
    parts = PurePosixPath(path).parts
    return "/".join([root.rstrip("/"), *(parts[1:] if parts[:1] == (_RUNS,) else parts)])


def folder_in_package(package: str, folder: str) -> Path | None:
    """A folder that an installed package holds, without importing it; None if the package is not installed."""
    spec = importlib.util.find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) / folder if places else None
