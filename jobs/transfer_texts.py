"""Few labelled texts of many classes: MiniLM with LoRA on BANKING77 (77 intents, 10 labelled texts each) or CLINC150.

One function for each strategy, on one problem, tested on texts of all intents. The network was pre-trained on pairs of
sentences, so there is no source: `frozen` and `fine_tuning` make no outer step, and adapt to all labelled texts. Needs
`distmeta[text]`, and the raw files below $DISTMETA_DATA or a store made by `distmeta data import`.

    distmeta train jobs/transfer_texts.py:merlin_ft
    distmeta train jobs/transfer_texts.py:fine_tuning --set seed=1
    distmeta train jobs/transfer_texts.py:merlin_ft --set tasks.store=clinc150 --set tasks.examples=1500

MeRLin-ft: Liu et al. 2020, arXiv 2011.01418, who evaluate it on GLUE.
"""

from __future__ import annotations

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
    Term,
    TextTransferTasks,
    TrainConfig,
    TransformerConfig,
)

TARGETS = ("query", "key", "value", "output", "ffn_in", "ffn_out")
RIDGE = {"regularisation": 0.1, "scale": 30.0}
"""On features of length 1."""


def _job(name: str, algorithm: AlgorithmConfig, steps: int, *, curve: bool = True) -> RunConfig:
    """Two tasks in each outer step, one for each worker: each fits a head to 231 texts and judges it on 154 others."""
    return RunConfig(
        name=f"transfer_texts_{name}",
        tasks=TextTransferTasks(store="banking77", examples=770, support=231, queries=154),
        model=TransformerConfig(
            pretrained="minilm", normalise=True, petl=(LoraConfig(rank=16, alpha=32.0, targets=TARGETS),)
        ),
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=5e-4, warmup_steps=10, schedule="cosine"),
        train=TrainConfig(steps=steps, tasks_per_step=2, log_every=10),
        runtime=RuntimeConfig(workers=2, shard_size=1),
        evaluation=EvaluationConfig(every=0, tasks=5, final_tasks=1, curve=curve),
        checkpoint=CheckpointConfig(every=50),
    )


def frozen() -> RunConfig:
    """A ridge head on MiniLM's own features."""
    return _job("frozen", methods.merlin(source=False, **RIDGE), 0)


def fine_tuning() -> RunConfig:
    """LoRA and a new head by steps of Adam on all labelled texts."""
    rates = {"head": 3e-2}
    phase = Phase(lr=1e-3, rates=rates, steps=300, batch=32, shuffle=True, optimizer="adam")
    learner = GradientConfig(phases=(phase,), head="fresh")
    terms = (Term(role="query", at="meta"),)
    return _job("fine_tuning", AlgorithmConfig(method="fine_tuning", learner=learner, terms=terms), 0, curve=False)


def merlin_ft() -> RunConfig:
    """MeRLin-ft: LoRA such that a ridge head, fitted to some of the labelled texts, classifies others."""
    return _job("merlin_ft", methods.merlin(source=False, **RIDGE), 150)


if __name__ == "__main__":
    run_job(__file__)
