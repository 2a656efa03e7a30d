"""What a result depends on besides its configuration: code, versions and machine. And what the process takes of it."""

from __future__ import annotations

import getpass
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("distmeta", "torch", "ray", "mlflow", "numpy", "pyarrow")
_GIT_TIMEOUT_S = 10.0


def git_state(folder: Path | None = None) -> dict[str, str]:
    """Commit, branch and whether tracked files differ from it.

    Args:
        folder: Any folder of the repository; None takes the working folder.

    Returns:
        `commit`, `branch` and `dirty` (`true` or `false`); empty outside a repository, or without git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "branch": branch or "HEAD", "dirty": "true" if changed else "false"}


def _git(folder: Path | None, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        version = package_version(package)
        if version is not None:
            found[package] = version
    return found


def package_version(package: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, str]:
    """The driver's host, system, processors and accelerator."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "device": _device(),
    }


def _device() -> str:
    import torch  # here, so that importing the trackers stays light

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "cpu"


def user() -> str:
    """The account's name, or `unknown` in containers whose user id has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def process_metrics() -> dict[str, float]:
    """Memory that this process holds now and has held at most, in bytes."""
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    peak *= 1.0 if sys.platform == "darwin" else 1024.0
    metrics = {"driver_peak_bytes": peak}
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[1])
        metrics["driver_rss_bytes"] = float(pages * os.sysconf("SC_PAGE_SIZE"))
    return metrics
