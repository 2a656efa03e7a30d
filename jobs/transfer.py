"""Transfer: from Fashion-MNIST to 600 digits of USPS, and the study of a source with a signature on CIFAR-10.

One function for each strategy, on one problem, evaluated on the test images of the target. Source and network are the
same throughout. Needs the raw files below $DISTMETA_DATA, or stores made by `distmeta data import`.

    distmeta train jobs/transfer.py:merlin
    distmeta train jobs/transfer.py:l2sp --set seed=1 --set tasks.examples=100
    distmeta train jobs/transfer.py:signature_merlin

The lower half of CIFAR-10's 49,500 source images is noise whose mean tells the class; that of the 500 target images is
not (Liu et al. 2020, arXiv 2011.01418). Besides the accuracy on test images, the jobs `signature_...` report that on
test images whose lower half is 0 (`term1/accuracy`).
"""

from __future__ import annotations

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    ConvNetConfig,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    Term,
    TrainConfig,
    TransferTasks,
)

PARTS = {"support": 150, "queries": 100, "source_batch": 32}
"""Examples of a training task."""
USPS = TransferTasks(store="fashion_mnist", target="usps", examples=600, **PARTS)
SIGNATURE = TransferTasks(store="cifar10", target="cifar10", examples=500, signature=0.2, eval_queries=4000, **PARTS)
"""4,000 of the 10,000 test images, since the network takes all queries at once: 2 GB."""
BATCH = {"queries": 32}
"""The same where a training task is a mini-batch, and adapts to nothing."""
NETWORK = ConvNetConfig(filters=(32, 64, 64))
MASKED = (Term(role="masked", weight=0.0),)


def _job(name: str, algorithm: AlgorithmConfig, tasks: TransferTasks, steps: int = 3000) -> RunConfig:
    """Two shards of one task in each outer step, one for each worker."""
    return RunConfig(
        name=name,
        tasks=tasks,
        model=NETWORK,
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=1e-3, schedule="cosine", final_lr_fraction=0.01),
        engine=EngineConfig(strategy="loop"),
        train=TrainConfig(steps=steps, tasks_per_step=2, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=1),
        evaluation=EvaluationConfig(every=0, tasks=tasks.folds, final_tasks=1),
        checkpoint=CheckpointConfig(every=500),
    )


def _usps(algorithm: AlgorithmConfig, steps: int = 3000, name: str | None = None, **fields: int) -> RunConfig:
    return _job(f"transfer_{name or algorithm.method}", algorithm, USPS.model_copy(update=fields), steps)


def _signature(algorithm: AlgorithmConfig, steps: int = 5000, **fields: int) -> RunConfig:
    evaluate = algorithm.evaluate.model_copy(update={"terms": MASKED})
    scored = algorithm.model_copy(update={"evaluate": evaluate})
    return _job(f"transfer_signature_{algorithm.method}", scored, SIGNATURE.model_copy(update=fields), steps)


def target_only() -> RunConfig:
    """The 600 digits alone."""
    return _usps(methods.target_only(), steps=1000, **BATCH)


def joint() -> RunConfig:
    """Both data sets at once, a head for each."""
    return _usps(methods.joint(alpha=0.5), **BATCH)


def fine_tuning() -> RunConfig:
    """Fine-tuning of all layers (Yosinski et al. 2014)."""
    return _usps(methods.fine_tuning())


def self_supervised() -> RunConfig:
    """Fine-tuning of a network that was pre-trained on the 600 digits themselves, by turning them."""
    return _usps(methods.fine_tuning(pretraining="rotation"), steps=1000, name="self_supervised")


def from_scratch() -> RunConfig:
    """The same phase on a random network: no pre-training."""
    return _usps(methods.fine_tuning(), steps=0, name="from_scratch")


def gradual() -> RunConfig:
    """Gradual unfreezing with rates that fall towards the inputs (Howard & Ruder 2018)."""
    blocks = ("block3", "block2", "block1")
    return _usps(methods.fine_tuning(block_decay=0.4, unfreeze=blocks, steps=700), name="gradual")


def linear_probe() -> RunConfig:
    """A new head on fixed features."""
    return _usps(methods.linear_probe())


def lp_ft() -> RunConfig:
    """LP-FT (Kumar et al. 2022)."""
    return _usps(methods.lp_ft())


def l2sp() -> RunConfig:
    """L2-SP (Li et al. 2018)."""
    return _usps(methods.l2sp())


def surgical() -> RunConfig:
    """Surgical fine-tuning (Lee et al. 2023) of the first block, and of the new head."""
    return _usps(methods.surgical())


def auto_rgn() -> RunConfig:
    """Auto-RGN (Lee et al. 2023)."""
    return _usps(methods.auto_rgn())


def merlin() -> RunConfig:
    """MeRLin (Liu et al. 2020): 150 of the digits fit a ridge head, 100 others judge it."""
    return _usps(methods.merlin())


def signature_target_only() -> RunConfig:
    """The 500 target images alone."""
    return _signature(methods.target_only(), steps=1000, **BATCH)


def signature_joint() -> RunConfig:
    """Both at once, a head for each."""
    return _signature(methods.joint(alpha=0.5), **BATCH)


def signature_fine_tuning() -> RunConfig:
    """Fine-tuning of all layers."""
    return _signature(methods.fine_tuning())


def signature_l2sp() -> RunConfig:
    """L2-SP (Li et al. 2018)."""
    return _signature(methods.l2sp())


def signature_merlin() -> RunConfig:
    """MeRLin (Liu et al. 2020)."""
    return _signature(methods.merlin())


if __name__ == "__main__":
    run_job(__file__)
