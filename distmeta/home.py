"""Where distmeta keeps what outlives a run: `DISTMETA_HOME`, by default `~/.cache/distmeta`."""

from __future__ import annotations

import os
from pathlib import Path


def data_home() -> Path:
    """Return the folder of everything distmeta keeps for this user."""
    return Path(os.environ.get("DISTMETA_HOME") or Path.home() / ".cache" / "distmeta").expanduser()
