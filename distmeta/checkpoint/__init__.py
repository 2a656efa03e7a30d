"""Checkpoints: safetensors and JSON in a folder for each step, on any file system that fsspec knows.

`<checkpoint.path>/<run name>/step-00000500/` holds:

- `meta.safetensors`: the meta-parameters;
- `averaged.safetensors`: their moving average, where it is on;
- `server.safetensors`: the outer optimizer's tensors, where it has any;
- `state.json`: everything else. A folder without it is not a checkpoint.
"""

from distmeta.checkpoint.files import Checkpoint, Summary
from distmeta.checkpoint.reading import latest, load, summaries
from distmeta.checkpoint.resume import resumable
from distmeta.checkpoint.writing import retire, save

__all__ = ["Checkpoint", "Summary", "latest", "load", "resumable", "retire", "save", "summaries"]
