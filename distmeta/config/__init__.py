"""Typed, validated, frozen configuration. Imports neither torch nor Ray."""

from distmeta.config.algorithm import (
    AlgorithmConfig,
    BackpropConfig,
    DisplacementConfig,
    GradientConfig,
    OuterConfig,
    Phase,
    PrototypeConfig,
)
from distmeta.config.models import Conv4Config, MlpConfig
from distmeta.config.run import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.config.tasks import GlyphTasks, SinusoidTasks, StoreTasks

__all__ = [
    "AlgorithmConfig",
    "BackpropConfig",
    "CheckpointConfig",
    "Conv4Config",
    "DisplacementConfig",
    "EngineConfig",
    "EvaluationConfig",
    "GlyphTasks",
    "GradientConfig",
    "MlpConfig",
    "OuterConfig",
    "Phase",
    "PrototypeConfig",
    "RunConfig",
    "RuntimeConfig",
    "SinusoidTasks",
    "StoreTasks",
    "TrackingConfig",
    "TrainConfig",
]
