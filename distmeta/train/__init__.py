"""Meta-training: the driver's loop."""

from distmeta.train.result import Evaluation, TrainResult
from distmeta.train.run import train

__all__ = ["Evaluation", "TrainResult", "train"]
