"""Use a trained learner: adapt to a few labelled examples, then predict."""

from distmeta.adapt.load import AdaptableLearner, Predictor, load

__all__ = ["AdaptableLearner", "Predictor", "load"]
