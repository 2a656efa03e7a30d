"""Few-shot intents by the names of the classes: what a decoder expects behind "query: TEXT intent:".

The score of a class is the mean log-probability of the words of its name to come next, so that a decoder answers before
it has seen an example (`zero_shot`); inner steps then adapt LoRA and the scores to the support set (`few_shot`), from
where many training tasks have brought LoRA (`meta_trained`). Classes of a test task are unseen, their names as well.

The decoder is made first, from the training texts alone, in some minutes. It is small and knows these texts only: names
that share words with those of training work, others do not. `model.pretrained` and `tasks.tokenizer` take a larger one.

    python jobs/pretrain/decoder.py decoders/banking77
    distmeta train jobs/label_words.py:zero_shot
    distmeta train jobs/label_words.py:few_shot
    distmeta train jobs/label_words.py:meta_trained --set train.budget_s=600

Needs `distmeta[petl]`, and the raw files of BANKING77 below $DISTMETA_DATA. Scores by words: Schick & Schuetze 2021,
arXiv 2001.07676; Brown et al. 2020, arXiv 2005.14165.
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoraConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TextTasks,
    TrainConfig,
    TransformerConfig,
)

DECODER = "decoders/banking77"
TEMPLATE = "query: {} intent:"
SCALE = 0.2
"""Of log-probabilities. Those of a decoder of few texts are further apart than its answers are reliable."""


def _job(name: str, algorithm: AlgorithmConfig, *, steps: int, queries: int = 1) -> RunConfig:
    tasks = TextTasks(
        store="banking77",
        split_set="01",
        tokenizer=DECODER,
        template=TEMPLATE,
        way=5,
        shots=1,
        queries=queries,
        eval_queries=5,
    )
    lora = LoraConfig(rank=8, alpha=16.0, targets=("fused", "ffn_in", "ffn_out"))
    return RunConfig(
        name=f"label_words_{name}",
        tasks=tasks,
        model=TransformerConfig(pretrained=DECODER, pooling="last", petl=(lora,)),
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=5e-4, warmup_steps=20, schedule="cosine", average=0.98),
        train=TrainConfig(steps=steps, tasks_per_step=4, patience=6 if steps else None),
        runtime=RuntimeConfig(workers=2, shard_size=1),
        evaluation=EvaluationConfig(every=20 if steps else 0, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=20),
    )


def zero_shot() -> RunConfig:
    """The decoder as it is: the support set is not used."""
    return _job("zero_shot", methods.label_words(steps=0, scale=SCALE), steps=0)


def few_shot() -> RunConfig:
    """Five inner steps on the support set, without meta-training."""
    return _job("few_shot", methods.label_words(lr=0.01, steps=5, order=1, scale=SCALE), steps=0)


def meta_trained() -> RunConfig:
    """The same, from LoRA parts that are meta-trained (first order)."""
    return _job("meta_trained", methods.label_words(lr=0.01, steps=5, order=1, scale=SCALE), steps=300, queries=5)


if __name__ == "__main__":
    run_job(__file__)
