"""Rapid learning or feature reuse? Bodies that were trained in different ways, tested without a head.

After Raghu et al. 2020 (arXiv 1909.09157), section 6.

    distmeta table jobs/tables/feature_reuse.py:omniglot --budget 5 --seeds 3
    distmeta table jobs/tables/feature_reuse.py:cifar_fs --budget 10
    distmeta table jobs/tables/feature_reuse.py:layers --budget 10          what adaptation changes in a trained network

NIL: cosines of features weight the labels of the support set. MAML and ANIL are also tested as they are trained, by
five inner steps.
"""

from distmeta.config.table import Column, Row, Table, View

ROWS = (
    Row("MAML", "../feature_reuse.py:maml"),
    Row("ANIL", "../feature_reuse.py:anil"),
    Row("Multiclass", "../feature_reuse.py:multiclass"),
    Row("Multitask, one head", "../feature_reuse.py:multitask"),
    Row("Multitask, a head each", "../feature_reuse.py:multitask_heads"),
    Row("NIL training", "../feature_reuse.py:nil_training"),
    Row("Random features", "../feature_reuse.py:random_features"),
)
ADAPTED = View(
    "adapted, transductive", protocol="transductive", evaluate=("algorithm.evaluate={steps: 5}",), rows=("MAML", "ANIL")
)
VIEWS = (View("NIL, transductive", protocol="transductive"), View("NIL, inductive", protocol="inductive"), ADAPTED)
CIFAR = (
    *("tasks.rotations=false", "tasks.way=5", "tasks.queries=5", "tasks.eval_queries=15"),
    *("model.downsample=pool", "model.filters=32"),
)


def _table(name: str, title: str, *changes: str, published: dict[tuple[str, str], str] | None = None) -> Table:
    return Table(
        name=f"reuse_{name}",
        title=f"Where good features come from: {title}, accuracy in percent",
        rows=ROWS,
        columns=(Column("", changes, VIEWS),),
        published=published or {},
        source="Raghu et al. 2020, tables 1 and 5, who train until convergence." if published else "",
    )


def omniglot() -> Table:
    published = {
        ("MAML", "adapted, transductive"): "93.7 ± 0.7",
        ("ANIL", "adapted, transductive"): "96.2 ± 0.5",
        ("ANIL", "NIL, transductive"): "96.7 ± 0.3",
    }
    return _table("omniglot", "Omniglot, 20-way 1-shot", published=published)


def cifar_fs() -> Table:
    return _table("cifar_fs", "CIFAR-FS, 5-way 1-shot", "tasks.store=cifar_fs", *CIFAR)


def fc100() -> Table:
    return _table("fc100", "FC100, 5-way 1-shot", "tasks.store=fc100", *CIFAR)


BLOCKS = 4
FIVE_STEPS = ("algorithm.learner.phases.0.lr=0.1", "algorithm.learner.phases.0.steps=5")
"""The study's own inner loop, in training too."""
ANALYSED = 200
"""Tasks that a network is analysed on."""


def analysed(checkpoint: str) -> dict[str, float | tuple[float, float]]:
    """Accuracy with the first blocks frozen, and how similar each layer is before and after adaptation."""
    from distmeta.training.analysis import analyze
    from distmeta.training.analysis_result import Freezing, Pair

    changes = ("algorithm.evaluate={steps: 5}", "engine.strategy=loop")
    found = analyze([checkpoint], what=("freezing", "adaptation"), tasks=ANALYSED, overrides=changes)
    values: dict[str, float | tuple[float, float]] = {}
    for row in (row for part in found.parts.values() for row in part.rows):
        if isinstance(row, Freezing):
            values[f"{row.frozen} frozen, accuracy"] = (row.after, row.interval)
        elif isinstance(row, Pair):
            values[f"CKA of {row.layer}"] = row.similarity.cka
            values[f"CCA of {row.layer}"] = row.similarity.pwcca
    return values


def layers() -> Table:
    def measured(title: str, metric: str) -> View:
        return View(title, metric=metric, measure="feature_reuse.py:analysed")

    spans = ["none", "block1", *(f"block1 to block{last}" for last in range(2, BLOCKS + 1))]
    views = [measured(f"{count} frozen", f"{span} frozen, accuracy") for count, span in enumerate(spans)]
    names = [*(f"block{number}" for number in range(1, BLOCKS + 1)), "outputs"]
    views += [measured(f"{kind}, {name}", f"{kind} of {name}") for kind in ("CKA", "CCA") for name in names]
    return Table(
        name="reuse_layers",
        title="MAML: accuracy with the first blocks frozen, and similarity of layers before and after adaptation",
        rows=(
            Row("Omniglot, 20-way 1-shot", "../feature_reuse.py:maml"),
            Row("Omniglot, 20-way 1-shot, five inner steps", "../feature_reuse.py:maml", FIVE_STEPS),
            Row("CIFAR-FS, 5-way 1-shot", "../feature_reuse.py:maml", ("tasks.store=cifar_fs", *CIFAR)),
        ),
        columns=(Column("", views=tuple(views)),),
        notes=(
            "Accuracy in percent; linear CKA, unbiased, and projection-weighted CCA, after five steps. Raghu et al. "
            "2020, table 1, miniImageNet 5-way 1-shot: 46.9 with no block frozen, 46.3 with all four.",
        ),
    )
