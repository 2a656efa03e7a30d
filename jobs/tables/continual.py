"""Features for streams of Omniglot's characters: OML and ANML beside features that no stream has shaped.

    distmeta table jobs/tables/continual.py
    distmeta table jobs/tables/continual.py --set train.steps=1500 --set train.budget_s=null     as many steps for each

Each network then learns streams of unseen characters, one drawing at a time (`distmeta stream`): accuracy on test and
training drawings of all characters at the end of a stream. The oracle sees the drawings in random order, three times.
"""

from distmeta.config.table import Column, Row, Table, View

CLASSES = (10, 100, 600)
ORDERS = 3
"""Streams of each length."""


def learned(checkpoint: str) -> dict[str, tuple[float, float]]:
    """Accuracies at the ends of streams, with their intervals over orders."""
    from distmeta.training.stream import Protocol, learn_streams

    result = learn_streams([checkpoint], Protocol(CLASSES, orders=ORDERS, untrained=False))
    return {
        f"{end.order} {end.classes} {part} accuracy": (mean.mean, mean.interval)
        for end in result.ends
        for part, mean in (("test", end.test), ("train", end.train))
    }


def _view(order: str, classes: int, part: str) -> View:
    title = f"{classes} classes, {'oracle, ' if order == 'oracle' else ''}{part}"
    return View(title, metric=f"{order} {classes} {part} accuracy", measure="continual.py:learned")


def table() -> Table:
    views = [_view("stream", classes, part) for classes in CLASSES for part in ("test", "train")]
    views += [_view("oracle", CLASSES[-1], part) for part in ("test", "train")]
    return Table(
        name="continual",
        title="Streams of Omniglot's characters: accuracy in percent at the end",
        rows=(
            Row("OML", "../continual.py:oml"),
            Row("OML, its paper's trajectories", "../continual.py:oml_paper"),
            Row("ANML", "../continual.py:anml"),
            Row("Joint training", "../continual.py:pretrain"),
            Row("Random features", "../continual.py:pretrain", ("train.steps=0",), timed=False),
        ),
        columns=(Column("", views=tuple(views)),),
        published={
            ("OML", "600 classes, test"): "62",
            ("OML", "600 classes, train"): "90",
            ("OML, its paper's trajectories", "600 classes, test"): "59",
            ("OML, its paper's trajectories", "600 classes, train"): "84",
            ("ANML", "600 classes, test"): "66",
            ("ANML", "600 classes, train"): "93",
        },
        source="a replication by Numenta, after 20,000 outer steps with larger networks.",
        notes=(
            f"Intervals of one seed are over {ORDERS} orders of classes and drawings, each with a draw of its own.",
        ),
    )
