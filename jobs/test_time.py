"""Adaptation at test time: networks that are trained on clean images of CIFAR-10, and tested on corrupted ones.

`tent` and `bn_adapt` train the same network, `ttt` one with a second head that tells how images are turned. They are
trained as usual, by SGD on moved and mirrored images; what differs is what they do at evaluation. They read CIFAR-10
below $DISTMETA_DATA.

    distmeta train jobs/test_time.py:tent
    distmeta train jobs/test_time.py:dann                   # domain adaptation: noisy images without labels in training
    distmeta evaluate runs/test_time_tent --tasks 20 --set tasks.shift.names=[fog] --set tasks.shift.severity=3
    distmeta adapt runs/test_time_tent --unlabelled photos --method tent
    distmeta table jobs/tables/test_time.py:corruption      # all corruptions, source, BN-adapt and TENT; :ttt for TTT

`spurious` and `subclass` train the same network for other shifts. Evaluation tasks have labelled examples under the
shift as well (role `support`), for fine-tuning.
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    Augmentation,
    CheckpointConfig,
    CorruptionShift,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    ResNet12Config,
    RunConfig,
    RuntimeConfig,
    ShiftedTasks,
    SpuriousShift,
    SubclassShift,
    TrainConfig,
)
from distmeta.config.shifts import Shift

STEPS = 6000
"""Of 128 images each: 16 times the 48,000 training images, in half an hour of two cores."""
ANIMALS = (("cat", "deer", "dog"), ("bird", "frog", "horse"))
VEHICLES = (("automobile", "ship"), ("airplane", "truck"))


def _job(name: str, algorithm: AlgorithmConfig, shift: Shift, norm: str = "running", steps: int = STEPS) -> RunConfig:
    return RunConfig(
        name=f"test_time_{name}",
        tasks=ShiftedTasks(store="cifar10", augment=Augmentation(crop=4, flip=True), shift=shift),
        model=ResNet12Config.model_validate({"widths": (24, 48, 96, 192), "norm": norm}),
        algorithm=algorithm,
        outer=OuterConfig(
            optimizer="SGD",
            lr=0.1,
            options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            schedule="linear",
            warmup_steps=500,
        ),
        train=TrainConfig(steps=steps, tasks_per_step=2, log_every=50),
        runtime=RuntimeConfig(workers=2, shard_size=1),
        engine=EngineConfig(strategy="compiled"),  # needs a C++ compiler
        evaluation=EvaluationConfig(every=1000, tasks=6, final_tasks=10),
        checkpoint=CheckpointConfig(every=500),
    )


def tent() -> RunConfig:
    """Entropy of the predictions, scales and shifts of norms (Wang et al. 2021)."""
    return _job("tent", methods.tent(), CorruptionShift())


def bn_adapt() -> RunConfig:
    """Statistics of the test batch (Nado et al. 2020)."""
    return _job("bn_adapt", methods.bn_adapt(), CorruptionShift())


def ttt() -> RunConfig:
    """Rotations, through a second head (Sun et al. 2020); group norm, as in the paper."""
    return _job("ttt", methods.ttt(), CorruptionShift(), norm="group", steps=STEPS // 2)


def deep_coral() -> RunConfig:
    """Clean labelled images, and noisy ones without labels: outputs of one covariance (Sun & Saenko 2016)."""
    return _job("deep_coral", methods.deep_coral(), CorruptionShift(), steps=STEPS // 2)


def dann() -> RunConfig:
    """The same, with features that a second head cannot tell apart (Ganin et al. 2016)."""
    return _job("dann", methods.dann(reverse=0.3), CorruptionShift(), steps=STEPS // 2)


def spurious() -> RunConfig:
    """A mark says the class of 95% of the training images, and nothing at evaluation."""
    return _job("spurious", methods.tent(), SpuriousShift())


def subclass() -> RunConfig:
    """Animals and vehicles, of other kinds at evaluation than in training."""
    return _job("subclass", methods.tent(), SubclassShift(classes={"animal": ANIMALS, "vehicle": VEHICLES}))


if __name__ == "__main__":
    run_job(__file__)
