"""Adaptation at test time: accuracy on corrupted images of CIFAR-10 before and after, corruption by corruption.

    distmeta table jobs/tables/test_time.py:corruption --budget 40         source, BN-adapt and TENT
    distmeta table jobs/tables/test_time.py:ttt --budget 40                TTT, with a network of its own
    distmeta table jobs/tables/test_time.py:corruption --columns clean,fog,contrast
    distmeta table jobs/tables/test_time.py:settings --budget 40           what target data is good for, under noise

The budget is that of a network, which is trained on clean images once a seed; without one, it has the steps of its
job. What adapts at test time starts from it, and trains nothing.
"""

from typing import get_args

from distmeta import methods
from distmeta.config import AlgorithmConfig, EvaluateConfig, GradientConfig, Phase
from distmeta.config.shifts import CorruptionName
from distmeta.config.table import Column, Row, Table, View

NAMES: tuple[str, ...] = get_args(CorruptionName)
SEVERITY = 5
BATCH, BATCHES = 200, 25
"""Images of a batch, and batches of each corruption."""
IN_TURN = 3
"""Batches of each corruption where one follows the other."""
ONE_BY_ONE = 500
"""Images of each corruption for TTT, whose steps are those of single images."""
TUNED_ON, TUNED_BATCH = 500, 50
"""Labelled images for fine-tuning, and images of a batch."""
NETWORK, TWO_HEADS, CONTINUAL, SOURCE = "Network", "Network with two heads", "TENT, continual", "Source"
NETWORKS = {"tent": NETWORK, "bn_adapt": NETWORK, "ttt": TWO_HEADS}
"""Job -> title of the row that it starts from."""
_BATCHES, _STREAM = (BATCH, BATCHES), (BATCH * BATCHES, 1)
_TOGETHER, _EACH = (ONE_BY_ONE, 1), (1, ONE_BY_ONE)
_PUBLISHED = {SOURCE: "56.5", "BN-adapt": "79.6", "TENT, online": "81.4"}


def _network(title: str, job: str) -> Row:
    return Row(title, f"../test_time.py:{job}", ("evaluation.final_tasks=0",), shown=False, shared=True)


def _row(
    title: str, job: str, protocol: str, queries: tuple[int, int], algorithm: AlgorithmConfig | None, examples: int = 0
) -> Row:
    """A network under a method, on so many queries of so many tasks; None: as it is."""
    evaluate = "{}" if algorithm is None else algorithm.evaluate.model_dump_json()
    changes = (
        f"algorithm.evaluate={evaluate}",
        *(f"tasks.eval_queries={queries[0]}", f"evaluation.final_tasks={queries[1]}", f"tasks.examples={examples}"),
        *(f"runtime.shard_size={min(queries[1], 50)}", "train.steps=0", "engine.strategy=loop"),
    )
    return Row(title, f"../test_time.py:{job}", changes, start=NETWORKS[job], protocol=protocol)


def _under(*names: str) -> tuple[str, ...]:
    return (f"tasks.shift.names=[{','.join(names)}]", f"tasks.shift.severity={SEVERITY}")


def _columns(rows: tuple[Row, ...]) -> tuple[Column, ...]:
    """Clean images, then each corruption."""
    views = (View(rows=tuple(row.title for row in rows if row.shown and row.title != CONTINUAL)),)
    clean = Column("clean", ("tasks.shift=null",), views, averaged=False)
    return (clean, *(Column(name.replace("_", " "), _under(name), views) for name in NAMES))


def corruption() -> Table:
    online = methods.tent(steps=BATCHES, batch=BATCH)
    parts = len(NAMES) * IN_TURN
    rows = (
        _network(NETWORK, "tent"),
        _row(SOURCE, "tent", "inductive", _BATCHES, None),
        _row("BN-adapt", "bn_adapt", "transductive", _BATCHES, methods.bn_adapt()),
        _row("TENT, episodic", "tent", "transductive", _BATCHES, methods.tent()),
        _row("TENT, online", "tent", "transductive", _STREAM, online),
        _row(CONTINUAL, "tent", "transductive", (BATCH * parts, 1), methods.tent(steps=parts, batch=BATCH)),
    )
    in_turn = Column("one after the other", _under(*NAMES), (View(rows=(CONTINUAL,)),), averaged=False)
    return Table(
        name="test_time_corruption",
        title=f"CIFAR-10 under corruptions of severity {SEVERITY}: accuracy in percent",
        rows=rows,
        columns=(*_columns(rows), in_turn),
        mean="mean",
        against=SOURCE,
        published={(row, "mean"): text for row, text in _PUBLISHED.items()},
        source="Wang et al. 2021 (arXiv 2006.10726), a WRN-28-10 on CIFAR-10-C: 100 less the errors of their code.",
        notes=(
            f"Batches of {BATCH} test images, {BATCHES} of each corruption, {IN_TURN} where one follows the other. "
            "The mean is over corruptions.",
        ),
    )


def ttt() -> Table:
    rows = (
        _network(TWO_HEADS, "ttt"),
        _row(SOURCE, "ttt", "inductive", _TOGETHER, None),
        _row("TTT, each image", "ttt", "inductive", _EACH, methods.ttt()),
        _row("TTT, online", "ttt", "inductive", _TOGETHER, _ttt_online()),
    )
    return Table(
        name="test_time_ttt",
        title=f"CIFAR-10 under corruptions of severity {SEVERITY}, a network with a second head: accuracy in percent",
        rows=rows,
        columns=_columns(rows),
        mean="mean",
        against=SOURCE,
        notes=(f"{ONE_BY_ONE} test images of each corruption. The mean is over corruptions.",),
    )


def _ttt_online() -> AlgorithmConfig:
    return methods.ttt(steps=ONE_BY_ONE, batch=4)


def _trained(title: str, job: str) -> Row:
    """A network that sees images of the target in training."""
    changes = (f"tasks.eval_queries={BATCH}", f"evaluation.final_tasks={BATCHES}", "tasks.examples=0")
    return Row(title, f"../test_time.py:{job}", changes, protocol="inductive")


def settings() -> Table:
    phase = Phase(role="support", lr=1e-3, steps=100, optimizer="adam", batch=TUNED_BATCH)
    tuned = methods.tent().model_copy(
        update={"evaluate": EvaluateConfig(learner=GradientConfig(phases=(phase,)), head="head")}
    )
    rows = (
        _network(NETWORK, "tent"),
        _network(TWO_HEADS, "ttt"),
        _row(SOURCE, "tent", "inductive", _BATCHES, None),
        _row("Fine-tuning", "tent", "inductive", (BATCH * BATCHES, 1), tuned, examples=TUNED_ON),
        _trained("Deep CORAL", "deep_coral"),
        _trained("DANN", "dann"),
        _row("Source with two heads", "ttt", "inductive", _TOGETHER, None),
        _row("TTT, online", "ttt", "inductive", _TOGETHER, _ttt_online()),
        _row("BN-adapt", "bn_adapt", "transductive", _BATCHES, methods.bn_adapt()),
        _row("TENT, online", "tent", "transductive", _STREAM, methods.tent(steps=BATCHES, batch=BATCH)),
    )
    return Table(
        name="test_time_settings",
        title=f"CIFAR-10 under noise of severity {SEVERITY}, by what is known of the target: accuracy in percent",
        rows=rows,
        columns=(Column("accuracy", _under("gaussian_noise")),),
        against=SOURCE,
        notes=(
            f"Fine-tuning has {TUNED_ON} labelled images of the target; Deep CORAL and DANN unlabelled ones in "
            f"training; TTT, BN-adapt and TENT the test images themselves. TTT is scored on {ONE_BY_ONE} of them.",
        ),
    )
