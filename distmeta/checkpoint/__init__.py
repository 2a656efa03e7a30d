"""Checkpoints: safetensors and JSON in a folder for each step, on any file system that fsspec knows.

`<checkpoint.path>/<run name>/step-00000500/` holds:

- `meta.safetensors`: the meta-parameters;
- `averaged.safetensors`: their moving average, where it is on;
- `server.safetensors`: the outer optimizer's tensors, where it has any;
- `pending.jsonl`: logged values that the tracking store had not yet taken, where there were any;
- `state.json`: everything else. A folder without it is not a checkpoint.
"""

from distmeta.checkpoint.files import Checkpoint, Summary
from distmeta.checkpoint.pending import pending
from distmeta.checkpoint.reading import latest, load, summaries
from distmeta.checkpoint.resume import resumable
from distmeta.checkpoint.saver import Saver
from distmeta.checkpoint.storage import StoreError
from distmeta.checkpoint.writing import probe, retire, save

__all__ = [
    "Checkpoint",
    "Saver",
    "StoreError",
    "Summary",
    "latest",
    "load",
    "pending",
    "probe",
    "resumable",
    "retire",
    "save",
    "summaries",
]
