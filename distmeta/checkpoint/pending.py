"""Metric values that were logged but not confirmed by the tracking store when a checkpoint was written.

They are saved as JSON lines, so that none is lost if the driver is killed while the store is unavailable.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from distmeta.checkpoint.files import PENDING
from distmeta.checkpoint.storage import MARKER, Folder
from distmeta.core.errors import UserError
from distmeta.tracking.base import MetricPoint

_POINT = TypeAdapter(MetricPoint)


def encode_pending(points: Sequence[MetricPoint]) -> bytes:
    """Encode the content of `pending.jsonl`."""
    return "".join(json.dumps(dataclasses.asdict(point)) + "\n" for point in points).encode()


def pending(path: str) -> list[MetricPoint]:
    """Values that the tracker must send again when a run resumes from the checkpoint at `path`; often none.

    Raises:
        UserError: The file is damaged.
    """
    folder = Folder.at(path)
    expected = json.loads(folder.read(MARKER))["sha256"].get(PENDING)
    if expected is None:
        return []
    content = folder.read(PENDING)
    damaged = UserError(
        "the file is truncated or corrupted", where=(folder / PENDING).url, allowed=f"sha256 {expected}"
    )
    if hashlib.sha256(content).hexdigest() != expected:
        raise damaged
    try:
        return [_POINT.validate_python(json.loads(line)) for line in content.splitlines()]
    except (ValueError, ValidationError) as error:
        raise damaged from error
