"""Few-shot intents, 5-way 1-shot: MiniLM with LoRA on BANKING77 and CLINC150, class splits of ProtAugment.

The classes of a split are unseen: a test task has five intents that none of the training tasks had. BANKING77 is one
domain, whose intents are close to each other; CLINC150 has ten. Needs `distmeta[text]`, and the raw files below
$DISTMETA_DATA. (`distmeta data fetch` brings no class splits of ProtAugment: `--set tasks.split_set=null` then takes a
random one.)

    distmeta train jobs/intents.py:lora_protonet
    distmeta train jobs/intents.py:lora_protonet --set tasks.store=clinc150 --set tasks.split_set="'02'"
    distmeta train jobs/intents.py:proto_maml --set train.budget_s=600
    python jobs/intents.py frozen

ProtAugment: Dopierre, Gravier & Logerais 2021, arXiv 2105.12995. MiniLM: all-MiniLM-L6-v2, trained on pairs of
sentences, so that even the frozen network is a strong start.
"""

from typing import Any

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    EvaluationConfig,
    GradientConfig,
    LoraConfig,
    OuterConfig,
    Phase,
    RunConfig,
    RuntimeConfig,
    TextTasks,
    TrainConfig,
    TransformerConfig,
)

TARGETS = ("query", "key", "value", "output", "ffn_in", "ffn_out")
SCALE = 10.0
"""Of squared distances. Features have length 1, so distances are at most 4: unscaled, no class is ever near certain."""


def _tasks(**fields: Any) -> TextTasks:
    return TextTasks(store="banking77", split_set="01", tokenizer="minilm", way=5, shots=1, eval_queries=5, **fields)


def _job(
    name: str,
    algorithm: AlgorithmConfig,
    tasks: TextTasks,
    *,
    outer: OuterConfig,
    steps: int,
    tasks_per_step: int = 2,
    every: int = 20,
) -> RunConfig:
    """A method on MiniLM: every layer has LoRA, and a worker takes one task at a time."""
    return RunConfig(
        name=f"intents_{name}",
        tasks=tasks,
        model=TransformerConfig(
            pretrained="minilm", normalise=True, petl=(LoraConfig(rank=16, alpha=32.0, targets=TARGETS),)
        ),
        algorithm=algorithm,
        outer=outer,
        train=TrainConfig(steps=steps, tasks_per_step=tasks_per_step, patience=6),
        runtime=RuntimeConfig(workers=2, shard_size=1),
        # Validation chooses what is tested: a few dozen steps are enough, and more of them fit the training intents.
        evaluation=EvaluationConfig(every=every, tasks=400, final_tasks=600),
        checkpoint=CheckpointConfig(every=every),
    )


def _adam(lr: float, interpolation: float = 1.0) -> OuterConfig:
    """The average over steps forgets within a hundred of them; the warm-up lets Adam see some gradients first."""
    return OuterConfig(
        optimizer="Adam", lr=lr, warmup_steps=20, schedule="cosine", average=0.98, interpolation=interpolation
    )


def _proto_maml() -> AlgorithmConfig:
    """Two first-order steps of LoRA and a head that starts from the class means.

    Distances are not scaled: with `SCALE`, class means of one example each are sure of these examples before any step,
    so that nothing is left to learn from them. A rate of 3 still works for the frozen network, 10 does not.
    """
    return methods.proto_maml(lr=1.0, steps=2, order=1)


def lora_protonet() -> RunConfig:
    """ProtoNet over adapted features (Snell et al. 2017): the meta-parameters are LoRA's alone.

    A training task has 25 intents, all that there are for training in a split of BANKING77: it is harder than a test
    task, and a step sees every intent.

    Few classes are soon learnt by heart. What is tested keeps a part of the frozen network, which was trained on far
    more texts: 0.6 of the way from it is best on validation (split 02: 84.9% at 1, 87.5% at 0.6).
    """
    tasks, outer = _tasks(train_way=25, queries=1), _adam(1e-3, interpolation=0.6)
    return _job("lora_protonet", methods.protonet(scale=SCALE), tasks, outer=outer, steps=200, every=100)


def proto_maml() -> RunConfig:
    """Proto-MAML (Triantafillou et al. 2020), first order: as ProtoNet, then two gradient steps on the task."""
    return _job("proto_maml", _proto_maml(), _tasks(train_way=25, queries=1), outer=_adam(5e-4), steps=300)


def fomaml() -> RunConfig:
    """First-order MAML (Finn et al. 2017): LoRA and a head with meta-parameters of its own, so 5 ways in training too.

    The head has everything to learn from one example a class, on features of length 1: its rate is much larger.
    """
    phase = Phase(lr=0.5, rates={"head": 10.0}, steps=5)
    algorithm = methods.fomaml(eval_steps=5).model_copy(update={"learner": GradientConfig(phases=(phase,))})
    return _job("fomaml", algorithm, _tasks(queries=5), outer=_adam(5e-4), steps=600, tasks_per_step=4)


def reptile() -> RunConfig:
    """Reptile (Nichol et al. 2018): inner Adam on ten texts of each of five intents, and the displacement.

    Its outer step is an interpolation, so its optimizer is SGD, whose rate falls to zero instead of averaging. Adam's
    steps have the size of the rate whatever the gradient: the head, on features of length 1, needs larger ones.
    """
    phase = Phase(lr=5e-4, rates={"head": 0.02}, steps=5, batch=10, optimizer="adam", beta1=0.0)
    algorithm = methods.reptile(eval_steps=20).model_copy(update={"learner": GradientConfig(phases=(phase,))})
    outer = OuterConfig(optimizer="SGD", lr=1.0, schedule="linear")
    return _job("reptile", algorithm, _tasks(train_shots=10, queries=1), outer=outer, steps=300)


def frozen() -> RunConfig:
    """What the others start from: class means of MiniLM's own features. LoRA starts at zero, and no step is made."""
    return _job("frozen", methods.protonet(scale=SCALE), _tasks(queries=1), outer=_adam(5e-4), steps=0)


def lora_plain() -> RunConfig:
    """Proto-MAML's learner without meta-training: LoRA is fitted to each test task from where it starts."""
    return _job("lora_plain", _proto_maml(), _tasks(queries=1), outer=_adam(5e-4), steps=0)


if __name__ == "__main__":
    run_job(__file__)
