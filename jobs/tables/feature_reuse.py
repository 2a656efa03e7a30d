"""Rapid learning or feature reuse? Bodies that were trained in different ways, tested without a head.

After Raghu et al. 2020 (arXiv 1909.09157), section 6.

    distmeta table jobs/tables/feature_reuse.py:omniglot --budget 5 --seeds 3
    distmeta table jobs/tables/feature_reuse.py:cifar_fs --budget 10
    distmeta analyze runs/tables/runs/reuse_omniglot-maml-seed0 --set algorithm.evaluate={}

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
