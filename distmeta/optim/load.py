"""Load a learned optimizer from a checkpoint."""

from __future__ import annotations

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint.reading import Which
from distmeta.config.python import require_trust
from distmeta.core.errors import UserError
from distmeta.methods.build import build_algorithm, check_params
from distmeta.optim.optimizer import LearnedOptimizer
from distmeta.tracking.uris import mask_uri


def load(path: str, *, which: Which = "latest", trust_code: bool = False) -> type[LearnedOptimizer]:
    """The optimizer that a run has trained, as a class: `load(path)(model.parameters())`.

    Args:
        path: A checkpoint, or the folder of a run.
        which: The newest checkpoint of the folder, the one before it, or the best by validation score.
        trust_code: Run the code that the checkpoint names: a network or learner of one's own.

    Returns:
        A subclass of `LearnedOptimizer`.

    Raises:
        UserError: There is no intact checkpoint at `path`, or it holds no optimizer.
    """
    checkpoint = checkpoints.load(path, which)
    config, signature, where = checkpoint.config, checkpoint.signature, mask_uri(checkpoint.path)
    require_trust(config, where, trusted=trust_code)
    learner = build_algorithm(config, signature).learner
    if learner.rule is None:
        what = f"learner.kind '{config.algorithm.learner.kind}' is no optimizer"
        raise UserError(what, where=where, allowed="a checkpoint of a learned optimizer, or distmeta.load")
    check_params(config, signature, checkpoint.averaged, checkpoint.buffers, where)
    members = {
        "__doc__": LearnedOptimizer.__doc__,
        "rule": learner.rule,
        "weights": learner.own(checkpoint.averaged),
        "trained_steps": config.algorithm.evaluated_learner().num_steps,
    }
    return type(LearnedOptimizer.__name__, (LearnedOptimizer,), members)
