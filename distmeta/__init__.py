"""distmeta: learners that learn fast, meta-trained on many tasks at once.

The public API. Names are looked up when they are first used (PEP 562), so that `import distmeta` loads neither torch
nor Ray nor MLflow:

    RunConfig            the whole configuration of a run
    load_config(path)    the RunConfig of a job file or a YAML file
    load(path)           a trained learner: `predict = load(path).adapt(x, y); predict(q)`
    train                the module with `train(config)`
    evaluate             the module that measures checkpoints on unseen tasks
    methods              the module with the table of methods
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import distmeta.evaluate as evaluate
    import distmeta.methods as methods
    import distmeta.train as train
    from distmeta.adapter import load
    from distmeta.config import RunConfig
    from distmeta.config.load import load_config

__all__ = ["RunConfig", "__version__", "evaluate", "load", "load_config", "methods", "train"]
__version__ = "0.1.0"

# Submodules stand under their own names: importing one binds it here, so a function could not keep the name `train`.
_MODULES = frozenset({"evaluate", "methods", "train"})
_ATTRIBUTES = {"RunConfig": "distmeta.config", "load": "distmeta.adapter", "load_config": "distmeta.config.load"}


def __getattr__(name: str) -> Any:
    """Import what `name` stands for. An import fault inside it is raised as it is."""
    if name in _MODULES:
        return importlib.import_module(f"distmeta.{name}")
    if name in _ATTRIBUTES:
        value = globals()[name] = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
        return value
    raise AttributeError(f"module 'distmeta' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
