"""What a result depends on besides its configuration: git state, versions, machine; and memory use of the process."""

from __future__ import annotations

import datetime
import getpass
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("distmeta", "torch", "ray", "mlflow", "numpy", "pyarrow")
_GIT_TIMEOUT_S = 10.0
_CPUINFO = Path("/proc/cpuinfo")


def git_state() -> dict[str, str]:
    """State of the repository of the working folder.

    Returns:
        `commit`, `branch` and `dirty` (`true` if tracked files are modified); empty without a repository or git.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git("rev-parse", "--abbrev-ref", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "branch": branch or "HEAD", "dirty": "true" if changed else "false"}


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a result."""
    result = {"python": platform.python_version()}
    for package in PACKAGES:
        version = package_version(package)
        if version is not None:
            result[package] = version
    return result


def package_version(package: str) -> str | None:
    """Installed version of a distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, str]:
    """Host name, system, number of CPUs and accelerator of the driver."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "device": _device(),
    }


def hardware(device: str = "cpu") -> dict[str, str | int]:
    """What a figure belongs to: processor, usable cores, accelerator, versions and date."""
    import torch

    accelerator = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device)}
    return {
        "cpu": _cpu_model(),
        "cores": num_cores(),
        "torch": torch.__version__,
        "distmeta": package_version("distmeta") or "source tree",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **accelerator,
    }


def hardware_line(of: Mapping[str, str | int]) -> str:
    """One line of `hardware`."""
    gpu = f"{of['gpu']}; " if "gpu" in of else ""
    return f"{gpu}{of['cpu']}, {of['cores']} core{'s' * (int(of['cores']) != 1)}; torch {of['torch']}; {of['date']}"


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    match = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def _device() -> str:
    import torch  # a lazy import, so that importing the trackers does not load torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "cpu"


def user() -> str:
    """Name of the user, or `unknown` in containers whose user id has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def process_metrics() -> dict[str, float]:
    """Current and peak memory of this process, in bytes."""
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    peak *= 1.0 if sys.platform == "darwin" else 1024.0
    metrics = {"driver_peak_bytes": peak}
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[1])
        metrics["driver_rss_bytes"] = float(pages * os.sysconf("SC_PAGE_SIZE"))
    return metrics
