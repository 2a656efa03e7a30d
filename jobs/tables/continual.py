"""Features for streams of Omniglot's characters: OML and ANML beside features that no stream has shaped.

    distmeta table jobs/tables/continual.py
    distmeta table jobs/tables/continual.py --set train.steps=1500 --set train.budget_s=null     as many steps for each
    distmeta table jobs/tables/continual.py:long      600 characters: half an hour of tests a row on one core

Each network then learns streams of unseen characters, one drawing at a time (`distmeta stream`): accuracy on test and
training drawings of all characters at the end of a stream. The oracle sees the drawings in random order, three times.
"""

from collections.abc import Sequence

from distmeta.config.table import Column, Row, Table, View

ORDERS = 3
"""Streams of each length."""
ROWS = (
    Row("OML", "../continual.py:oml"),
    Row("OML, its paper's trajectories", "../continual.py:oml_paper"),
    Row("ANML", "../continual.py:anml"),
    Row("Joint training", "../continual.py:pretrain"),
    Row("Random features", "../continual.py:pretrain", ("train.steps=0",), timed=False),
)
NOTE = f"Intervals of one seed are over {ORDERS} orders of classes and drawings, each with a draw of its own."


def short_streams(checkpoint: str) -> dict[str, tuple[float, float]]:
    """Accuracies at the ends of streams of 10 and 100 classes, with their intervals over orders."""
    return _learned(checkpoint, (10, 100))


def long_streams(checkpoint: str) -> dict[str, tuple[float, float]]:
    """Accuracies at the ends of streams of 600 classes."""
    return _learned(checkpoint, (600,))


def table() -> Table:
    views = _views("stream", 10, "short_streams") + _views("stream", 100, "short_streams")
    return Table(
        name="continual",
        title="Streams of Omniglot's characters: accuracy in percent at the end",
        rows=ROWS,
        columns=(Column("", views=(*views, *_views("oracle", 100, "short_streams"))),),
        notes=(NOTE,),
    )


def long() -> Table:
    return Table(
        name="continual_long",
        title="Streams of 600 of Omniglot's characters: accuracy in percent at the end",
        rows=ROWS,
        columns=(Column("", views=(*_views("stream", 600, "long_streams"), *_views("oracle", 600, "long_streams"))),),
        published={
            ("OML", "600 classes, test"): "62",
            ("OML", "600 classes, train"): "90",
            ("OML, its paper's trajectories", "600 classes, test"): "59",
            ("OML, its paper's trajectories", "600 classes, train"): "84",
            ("ANML", "600 classes, test"): "66",
            ("ANML", "600 classes, train"): "93",
        },
        source="a replication by Numenta, after 20,000 outer steps with larger networks.",
        notes=(NOTE,),
    )


def _learned(checkpoint: str, classes: Sequence[int]) -> dict[str, tuple[float, float]]:
    from distmeta.training.stream import Protocol, learn_streams

    result = learn_streams([checkpoint], Protocol(classes, orders=ORDERS, untrained=False))
    return {
        f"{end.order} {end.classes} {part} accuracy": (mean.mean, mean.interval)
        for end in result.ends
        for part, mean in (("test", end.test), ("train", end.train))
    }


def _views(order: str, classes: int, measure: str) -> tuple[View, ...]:
    """Test and training accuracy of one order of drawings."""
    of = "oracle, " if order == "oracle" else ""
    return tuple(
        View(
            f"{classes} classes, {of}{part}",
            metric=f"{order} {classes} {part} accuracy",
            measure=f"continual.py:{measure}",
        )
        for part in ("test", "train")
    )
