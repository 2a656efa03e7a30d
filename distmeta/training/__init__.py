"""Meta-training: the driver's loop."""

from distmeta.training.result import Evaluation, TrainResult
from distmeta.training.run import train

__all__ = ["Evaluation", "TrainResult", "train"]
