"""A row for each method with the same budget: Omniglot, 20-way 1-shot, and sine waves.

    distmeta table jobs/tables/methods.py:omniglot --budget 5
    distmeta table jobs/tables/methods.py:sinusoid --budget 5
    distmeta table jobs/tables/methods.py:omniglot --budget 1 --rows maml,protonet --seeds 3

Left out are methods for other tasks (texts, optimizers, streams, wrong labels, shifts, transfer).
"""

from collections.abc import Mapping

from distmeta.config.table import Column, Row, Table, View
from distmeta.methods import METHODS

OMNIGLOT = {
    **{
        name: f"omniglot.py:{name}"
        for name in (
            *("maml", "fomaml", "anil", "meta_sgd", "reptile", "imaml", "imaml_hf", "boil", "maml_pp", "cavia"),
            *("protonet", "proto_maml", "matching", "knn", "r2d2", "nil"),
            *("lstm", "neural_process", "in_context", "pretrain"),
        )
    },
    "multitask": "feature_reuse.py:multitask",
    "film": "parameter_prediction.py:film",
    "darts": "architecture.py:darts",
}
"""Method -> job."""
SINUSOID = {
    **{name: f"sinusoid.py:{name}" for name in ("maml", "r2d2", "cavia", "lstm", "neural_process", "in_context")},
    **{name: f"inner_problem.py:{name}" for name in ("hyperparameters", "learned_loss")},
    "pretrain": "sinusoid.py:pretrain",
}
OF_OTHER_TASKS = {
    "darts": ("tasks.store=omniglot", "tasks.rotations=true", "tasks.queries=1", "tasks.eval_queries=1"),
}
"""Changes of jobs that are made for other tasks."""
FEWER = ("train.tasks_per_step=8", "runtime.shard_size=4")
"""A quarter of the tasks a step, of four times as many ways: steps cost what they do in the jobs."""
OF_32_TASKS = {
    *("maml", "fomaml", "anil", "nil", "meta_sgd", "imaml", "imaml_hf", "boil", "maml_pp", "cavia"),
    *("lstm", "neural_process", "in_context"),
}
PROTOCOLS = tuple(View(name, protocol=name) for name in ("transductive", "inductive"))


def _rows(jobs: dict[str, str], changes: Mapping[str, tuple[str, ...]]) -> tuple[Row, ...]:
    return tuple(Row(METHODS[name].title, f"../{job}", changes.get(name, ())) for name, job in jobs.items())


def omniglot() -> Table:
    body = Row("Body of the weight generator", "../parameter_prediction.py:body", shown=False)
    generator = Row(METHODS["weight_generator"].title, "../parameter_prediction.py:weight_generator", start=body.title)
    limits = ("evaluation.tasks=100", "evaluation.final_tasks=600")
    return Table(
        name="methods_omniglot",
        title="Every method for few-shot classification: Omniglot, 20-way 1-shot, accuracy in percent",
        rows=(*_rows(OMNIGLOT, OF_OTHER_TASKS | dict.fromkeys(OF_32_TASKS, FEWER)), body, generator),
        columns=(Column("", ("tasks.way=20", *limits), PROTOCOLS),),
        notes=(
            "The weight generator starts from a body that has had the same budget before. Networks that treat examples "
            "one by one have no transductive column.",
        ),
    )


def sinusoid() -> Table:
    # In one process, whose steps are those of a small network, and as many of them as the budget has room for.
    limits = ("runtime.executor=local", "train.steps=1000000", "checkpoint.every=20000", "evaluation.every=20000")
    return Table(
        name="methods_sinusoid",
        title="Every method for regression: sine waves, 10 shots, mean squared error",
        rows=_rows(SINUSOID, {}),
        columns=(Column("mean squared error", limits),),
    )
