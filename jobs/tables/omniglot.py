"""Few-shot classification of Omniglot's characters, beside the published numbers.

    distmeta table jobs/tables/omniglot.py --budget 20 --seeds 3
    distmeta table jobs/tables/omniglot.py --budget 5 --rows maml,protonet --columns 5_way_1_shot
    distmeta table jobs/tables/omniglot.py:lake --budget 20 --seeds 3
    distmeta table jobs/tables/omniglot.py:inductive --budget 20      # norms, where images are labelled one by one

Needs the data as `jobs/omniglot.py` does.
"""

from distmeta.config.table import Column, Row, Table, View

VIEWS = (View("transductive", protocol="transductive"), View("inductive", protocol="inductive"))
COLUMNS = tuple(
    Column(f"{way}-way {shots}-shot", (f"tasks.way={way}", f"tasks.shots={shots}"), VIEWS)
    for way, shots in ((5, 1), (5, 5), (20, 1), (20, 5))
)
_TRANSDUCTIVE = {
    "MAML": ("98.7", "99.9", "95.8", "98.9"),
    "First-order MAML": ("98.3", "99.2", "89.4", "97.9"),
    "Reptile": ("97.68", "99.48", "89.43", "97.12"),
    "iMAML": ("99.16", "99.67", "94.46", "98.69"),
    "iMAML, Hessian-free": ("99.50", "99.74", "96.18", "99.14"),
    "ANIL": (None, None, "96.2", "98.0"),
    "NIL": (None, None, "96.7", "98.0"),
}
_INDUCTIVE = {
    "Reptile": ("95.39", "98.90", "88.14", "96.65"),
    "ProtoNet": ("98.8", "99.7", "96.0", "98.9"),
}


def _published() -> dict[tuple[str, str], str]:
    by_protocol = {"transductive": _TRANSDUCTIVE, "inductive": _INDUCTIVE}
    return {
        (row, f"{column.title}, {protocol}"): value
        for protocol, rows in by_protocol.items()
        for row, values in rows.items()
        for column, value in zip(COLUMNS, values, strict=True)
        if value is not None
    }


def table() -> Table:
    return Table(
        name="omniglot",
        title="Omniglot, few-shot classification: accuracy in percent",
        rows=(
            Row("MAML", "../omniglot.py:maml"),
            Row("First-order MAML", "../omniglot.py:fomaml"),
            Row("Reptile", "../omniglot.py:reptile", ("tasks.train_shots=10",)),
            Row("iMAML", "../omniglot.py:imaml"),
            Row("iMAML, Hessian-free", "../omniglot.py:imaml_hf"),
            Row("ANIL", "../omniglot.py:anil"),
            Row("NIL", "../omniglot.py:nil"),
            Row("ProtoNet", "../omniglot.py:protonet"),
        ),
        columns=COLUMNS,
        published=_published(),
        source=(
            "MAML and first-order MAML: Finn et al. 2017; Reptile: Nichol et al. 2018 (with transduction in the "
            "transductive column); iMAML: Rajeswaran et al. 2019; ANIL and NIL: Raghu et al. 2020; ProtoNet: Snell et "
            "al. 2017."
        ),
        notes=(
            "All rows: conv4 with 64 strided filters, rotations by 90 degrees as new classes, characters divided at "
            "random. Transductive: batch norm takes the statistics of the queries, of which a task has one of each "
            "class; inductive: those of the support set.",
        ),
    )


def inductive() -> Table:
    """Ways to norm when a query is labelled by itself: trained as it is tested, or not."""
    support, group = ("model.norm=support",), ("model.norm=group",)
    return Table(
        name="omniglot_inductive",
        title="Omniglot, 5-way 1-shot, by the statistics that the network's norm takes: accuracy in percent",
        rows=(
            Row("MAML, batch norm", "../omniglot.py:maml"),
            Row("MAML, batch norm by the support set", "../omniglot.py:maml", support),
            Row("MAML, group norm", "../omniglot.py:maml", group),
            Row("MAML++, batch norm by the support set and by step", "../omniglot.py:maml_pp", support),
            Row("ANIL, batch norm by the support set", "../omniglot.py:anil", support),
            Row("ProtoNet, batch norm", "../omniglot.py:protonet"),
            Row("ProtoNet, batch norm by the support set", "../omniglot.py:protonet", support),
        ),
        columns=(Column("", views=VIEWS),),
        against="MAML, batch norm",
        notes=(
            "Batch norm is trained with the statistics of the queries, and tested with them (transductive) or with "
            "those of the support set (inductive); that by the support set has these in training too. Group norm takes "
            "each image by itself.",
        ),
    )


def lake() -> Table:
    """Lake's own division into background and evaluation alphabets, and his tasks within one alphabet."""
    store = ("tasks.store=omniglot_alphabets", "tasks.way=20", "tasks.shots=1")
    one_drawer = ("tasks.one_group=true", "tasks.same_rows=true", "tasks.rotations=false")
    views = (*VIEWS, *(View(f"one alphabet, {view.title}", view.protocol, evaluate=one_drawer) for view in VIEWS))
    people = "one alphabet, inductive"
    return Table(
        name="omniglot_lake",
        title="Omniglot, unseen alphabets, 20-way 1-shot: accuracy in percent",
        rows=(
            Row("MAML", "../omniglot.py:maml"),
            Row("ANIL", "../omniglot.py:anil"),
            Row("ProtoNet", "../omniglot.py:protonet"),
            Row("Matching network", "../omniglot.py:matching"),
            Row("R2-D2", "../omniglot.py:r2d2"),
        ),
        columns=(Column("", store, views),),
        published={("ProtoNet", people): "86.3"},
        source=(
            "Lake et al. 2019 (arXiv 1902.03477), trained on the background alphabets without rotations; people reach "
            "95.5, Bayesian program learning 96.7 (Lake et al. 2015)."
        ),
        notes=(
            "Tasks of one alphabet are drawn as by Lake et al. 2015: 20 characters of an evaluation alphabet, one of "
            "each by one drawer, queries by another one; theirs are 20 such tasks, of 10 alphabets.",
        ),
    )
