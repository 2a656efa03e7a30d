"""distmeta: learners that learn fast, meta-trained on many tasks at once.

The public API. Names are looked up when they are first used (PEP 562), so that `import distmeta` loads neither torch
nor Ray nor MLflow:

    RunConfig             the whole configuration of a run
    load_config(path)     the RunConfig of a job file or a YAML file
    train(config)         meta-train
    train_seeds(config)   meta-train with several seeds
    tune(config, space)   choose fields of a configuration by validation, and meta-train with the best
    Callback              base class of what `train` calls after steps and evaluations
    StopTraining          what a callback raises to end the run in order
    evaluate(checkpoint)  score a checkpoint on unseen tasks
    build(config)         the parts of a method, for training loops of one's own
    load(path)            a trained learner: `predict = load(path).adapt(x, y); predict(q)`
    optim                 the module of learned optimizers: `optim.load(path)(model.parameters())`
    methods               the module with the table of methods
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import distmeta.methods as methods
    import distmeta.optim as optim
    from distmeta.adapt.load import load
    from distmeta.config import RunConfig
    from distmeta.config.load import load_config
    from distmeta.program.own_loop import build
    from distmeta.training.callbacks import Callback, StopTraining
    from distmeta.training.evaluate import evaluate
    from distmeta.training.run import train
    from distmeta.training.seeds import train_seeds
    from distmeta.training.tuning import tune

__all__ = [
    "Callback",
    "RunConfig",
    "StopTraining",
    "__version__",
    "build",
    "evaluate",
    "load",
    "load_config",
    "methods",
    "optim",
    "train",
    "train_seeds",
    "tune",
]
__version__ = "0.1.0"

# Without it, MKL's products of small matrices depend on where these lie in memory: on processors with AVX2 alone the
# bits of a task then depend on its place among others. MKL reads it at its first call.
os.environ.setdefault("MKL_CBWR", "AUTO")

_ATTRIBUTES = {
    "Callback": "distmeta.training.callbacks",
    "RunConfig": "distmeta.config",
    "StopTraining": "distmeta.training.callbacks",
    "build": "distmeta.program.own_loop",
    "evaluate": "distmeta.training.evaluate",
    "load": "distmeta.adapt.load",
    "load_config": "distmeta.config.load",
    "train": "distmeta.training.run",
    "train_seeds": "distmeta.training.seeds",
    "tune": "distmeta.training.tuning",
}


def __getattr__(name: str) -> Any:
    """Import what `name` stands for. An import fault inside it is raised as it is."""
    if name in ("methods", "optim"):
        return importlib.import_module(f"distmeta.{name}")
    if name in _ATTRIBUTES:
        value = globals()[name] = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
        return value
    raise AttributeError(f"module 'distmeta' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
