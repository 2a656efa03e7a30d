"""What training starts from: initial values of the seed, or those of another run's checkpoint."""

from __future__ import annotations

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.paths import runs_path
from distmeta.core.types import Params
from distmeta.methods.learners.base import Learner

WHERE = "train.init_from"


def initial(config: RunConfig, learner: Learner, *, resumed: bool = False) -> tuple[Params, Params]:
    """Meta-parameters and running statistics before the first outer step.

    Args:
        config: The run.
        learner: How its tasks are adapted.
        resumed: Whether the run goes on from a checkpoint of its own: then the other run's need not exist any more,
            unless `outer.interpolation` reads the values of the start.

    Raises:
        UserError: `train.init_from` is no checkpoint, or one of another network.
    """
    params, buffers = learner.init(config.seed), learner.backbone.buffers()
    if config.train.init_from is None or (resumed and config.outer.interpolation == 1.0):
        return params, buffers
    checkpoint = checkpoints.load(runs_path(config.train.init_from))
    found = {**checkpoint.averaged, **checkpoint.buffers}
    for name in (*learner.backbone.groups()["body"], *buffers):
        expected = params.get(name, buffers.get(name))
        if expected is not None and (name not in found or found[name].shape != expected.shape):
            has = f"'{name}' {list(found[name].shape)}" if name in found else f"no '{name}'"
            what = f"the checkpoint has {has}, which the network has as {list(expected.shape)}"
            raise UserError(what, where=WHERE, allowed="a checkpoint of the same network")
    return _replaced(params, found), _replaced(buffers, found)


def _replaced(values: Params, found: Params) -> Params:
    """The values, those of the same name and shape in `found` instead where there are such."""
    return {
        name: found[name].to(tensor.dtype) if name in found and found[name].shape == tensor.shape else tensor
        for name, tensor in values.items()
    }
