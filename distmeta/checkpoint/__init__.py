"""Checkpoints: a folder of safetensors and JSON files per step, on any fsspec file system.

`<checkpoint.path>/<run name>/step-00000500/` contains:

- `meta.safetensors`: the meta-parameters;
- `averaged.safetensors`: their moving average, if enabled;
- `server.safetensors`: tensors of the outer optimizer's state, if any;
- `words.json`: the vocabulary of the tokenizer `words`, if the tasks use it;
- `pending.jsonl`: logged values that the tracking store had not confirmed, if any;
- `state.json`: everything else. It is written last: a folder without it is not a complete checkpoint.
"""

from distmeta.checkpoint.files import Checkpoint, Summary
from distmeta.checkpoint.lock import run_lock
from distmeta.checkpoint.pending import pending
from distmeta.checkpoint.reading import check_store, latest, load, summaries
from distmeta.checkpoint.resume import resumable
from distmeta.checkpoint.saver import Saver
from distmeta.checkpoint.storage import StoreError
from distmeta.checkpoint.writing import probe, retire, save, set_aside

__all__ = [
    "Checkpoint",
    "Saver",
    "StoreError",
    "Summary",
    "check_store",
    "latest",
    "load",
    "pending",
    "probe",
    "resumable",
    "retire",
    "run_lock",
    "save",
    "set_aside",
    "summaries",
]
