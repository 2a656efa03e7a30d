"""Configuration of a run: typed, validated and immutable. Imports neither torch nor Ray."""

from distmeta.config.algorithm import AlgorithmConfig, EvaluateConfig, Term
from distmeta.config.black_box import InContextConfig, LstmConfig, NeuralProcessConfig
from distmeta.config.checkpoint import CheckpointConfig
from distmeta.config.engine import EngineConfig
from distmeta.config.estimators import BackpropConfig, DisplacementConfig, EvolutionConfig, ImplicitConfig
from distmeta.config.evaluation import EvaluationConfig
from distmeta.config.gradient import GradientConfig, Phase
from distmeta.config.inner import ExampleWeightsConfig, HyperparametersConfig, InnerLossConfig
from distmeta.config.interaction import CheetahTasks, NavigationTasks, PolicyGradientConfig
from distmeta.config.learners import (
    NeighbourConfig,
    NewtonConfig,
    PrototypeConfig,
    RidgeConfig,
    StatisticsConfig,
)
from distmeta.config.models import (
    Conv4Config,
    ConvNetConfig,
    MixedConfig,
    MlpConfig,
    PolicyConfig,
    ResNet12Config,
    TransformerConfig,
)
from distmeta.config.optimizers import AdamRuleConfig, LearnedOptimizerConfig, LstmRuleConfig, MlpRuleConfig
from distmeta.config.outer import OuterConfig, TrustRegionConfig
from distmeta.config.petl import (
    AdapterConfig,
    BitFitConfig,
    FullConfig,
    Ia3Config,
    LoraConfig,
    MamConfig,
    PrefixConfig,
)
from distmeta.config.prediction import FilmConfig, GeneratorConfig
from distmeta.config.problems import DatasetTasks, QuadraticTasks
from distmeta.config.python import (
    PythonEstimator,
    PythonLearner,
    PythonModel,
    PythonObjective,
    PythonTasks,
)
from distmeta.config.run import RunConfig
from distmeta.config.runtime import PartitionConfig, RuntimeConfig, ToleranceConfig
from distmeta.config.shifts import (
    Augmentation,
    CorruptionShift,
    LabelShift,
    ShiftedTasks,
    SpuriousShift,
    SubclassShift,
)
from distmeta.config.tasks import (
    GlyphTasks,
    SinusoidTasks,
    StoreTasks,
    StreamOptions,
    TableTasks,
    TextTasks,
    VectorTasks,
)
from distmeta.config.tracking import TrackingConfig
from distmeta.config.train import TrainConfig
from distmeta.config.transfer import TextTransferTasks, TransferTasks

__all__ = [
    "AdamRuleConfig",
    "AdapterConfig",
    "AlgorithmConfig",
    "Augmentation",
    "BackpropConfig",
    "BitFitConfig",
    "CheckpointConfig",
    "CheetahTasks",
    "Conv4Config",
    "ConvNetConfig",
    "CorruptionShift",
    "DatasetTasks",
    "DisplacementConfig",
    "EngineConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "EvolutionConfig",
    "ExampleWeightsConfig",
    "FilmConfig",
    "FullConfig",
    "GeneratorConfig",
    "GlyphTasks",
    "GradientConfig",
    "HyperparametersConfig",
    "Ia3Config",
    "ImplicitConfig",
    "InContextConfig",
    "InnerLossConfig",
    "LabelShift",
    "LearnedOptimizerConfig",
    "LoraConfig",
    "LstmConfig",
    "LstmRuleConfig",
    "MamConfig",
    "MixedConfig",
    "MlpConfig",
    "MlpRuleConfig",
    "NavigationTasks",
    "NeighbourConfig",
    "NeuralProcessConfig",
    "NewtonConfig",
    "OuterConfig",
    "PartitionConfig",
    "Phase",
    "PolicyConfig",
    "PolicyGradientConfig",
    "PrefixConfig",
    "PrototypeConfig",
    "PythonEstimator",
    "PythonLearner",
    "PythonModel",
    "PythonObjective",
    "PythonTasks",
    "QuadraticTasks",
    "ResNet12Config",
    "RidgeConfig",
    "RunConfig",
    "RuntimeConfig",
    "ShiftedTasks",
    "SinusoidTasks",
    "SpuriousShift",
    "StatisticsConfig",
    "StoreTasks",
    "StreamOptions",
    "SubclassShift",
    "TableTasks",
    "Term",
    "TextTasks",
    "TextTransferTasks",
    "ToleranceConfig",
    "TrackingConfig",
    "TrainConfig",
    "TransferTasks",
    "TransformerConfig",
    "TrustRegionConfig",
    "VectorTasks",
]
