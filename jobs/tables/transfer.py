"""Strategies of transfer learning beside each other, over seeds that draw their own labelled examples.

    distmeta table jobs/tables/transfer.py:usps --seeds 5             Fashion-MNIST to 600 digits
    distmeta table jobs/tables/transfer.py:signature --seeds 3        CIFAR-10 from signed images
    distmeta table jobs/tables/transfer.py:pretraining --seeds 3      error against the number of labelled digits
    distmeta table jobs/tables/transfer.py:banking77 --seeds 3        MiniLM to ten labelled texts of each intent
    distmeta table jobs/tables/transfer.py:clinc150

Texts need `distmeta[text]`. Strategies that reuse a network trained on the source alone start from the same one, which
is trained once a seed. Steps are those of the jobs: a budget of minutes would cut the training of the source.
"""

from distmeta.config.table import Column, Row, Table, View

SOURCE = "Source alone"
REUSE = {
    "Linear probe": "linear_probe",
    "Fine-tuning": "fine_tuning",
    "LP-FT": "lp_ft",
    "L2-SP": "l2sp",
    "Surgical, first block": "surgical",
    "Auto-RGN": "auto_rgn",
}
"""Title -> job of `jobs/transfer.py`."""
EXAMPLES = (20, 50, 100, 200, 600)
_LIU = "Liu et al. 2020 (arXiv 2011.01418), with a ResNet."


def _source(job: str) -> Row:
    changes = ("evaluation.final_tasks=0",)
    return Row(SOURCE, f"../transfer.py:{job}", changes, timed=False, shown=False, shared=True)


def _reuse(title: str, job: str) -> Row:
    return Row(title, f"../transfer.py:{job}", ("train.steps=0",), start=SOURCE, timed=False)


def _alone(title: str, job: str, file: str = "transfer.py") -> Row:
    return Row(title, f"../{file}:{job}", timed=False)


def usps() -> Table:
    return Table(
        name="transfer_usps",
        against="Fine-tuning",
        title="Fashion-MNIST to 600 digits of USPS: accuracy in percent on the 2,007 test digits",
        rows=(
            _source("fine_tuning"),
            _alone("Target only", "target_only"),
            _alone("Joint training", "joint"),
            *(_reuse(title, job) for title, job in REUSE.items()),
            _alone("MeRLin", "merlin"),
        ),
        columns=(Column("accuracy"),),
        published={("L2-SP", "accuracy"): "89.74 ± 0.41", ("MeRLin", "accuracy"): "93.34 ± 0.41"},
        source=_LIU,
    )


def signature() -> Table:
    return Table(
        name="transfer_signature",
        against="Fine-tuning",
        title="CIFAR-10 from images whose lower half tells the class: accuracy in percent",
        rows=(
            _source("signature_fine_tuning"),
            _alone("Target only", "signature_target_only"),
            _alone("Joint training", "signature_joint"),
            _reuse("Fine-tuning", "signature_fine_tuning"),
            _reuse("L2-SP", "signature_l2sp"),
            _alone("MeRLin", "signature_merlin"),
        ),
        columns=(Column("", views=(View("accuracy"), View("lower half masked", metric="term1/accuracy"))),),
        notes=("The lower half of a source image is noise whose mean tells the class; that of a target image is not.",),
    )


def pretraining() -> Table:
    return Table(
        name="pretraining",
        title="Pre-training or not: accuracy in percent on USPS by labelled digits",
        rows=(
            _source("fine_tuning"),
            _alone("No pre-training", "from_scratch"),
            _alone("Pre-training on the same digits", "self_supervised"),
            _reuse("Pre-training on Fashion-MNIST", "fine_tuning"),
        ),
        columns=tuple(Column(str(count), _of_examples(count), x=count) for count in EXAMPLES),
        xlabel="labelled digits",
        notes=("After figure 3 of Howard & Ruder 2018 (arXiv 1801.06146).",),
    )


def _of_examples(count: int) -> tuple[str, ...]:
    """A mini-batch of a training task cannot have more than the labelled images."""
    support = min(150, count // 2)
    return (f"tasks.examples={count}", f"tasks.support={support}", f"tasks.queries={min(32, count - support)}")


def banking77() -> Table:
    return _texts("banking77", "BANKING77, 770 labelled texts of 77 intents")


def clinc150() -> Table:
    changes = ("tasks.store=clinc150", "tasks.examples=1500")
    return _texts("clinc150", "CLINC150, 1,500 labelled texts of 150 intents", *changes)


def _texts(name: str, title: str, *changes: str) -> Table:
    return Table(
        name=f"transfer_{name}",
        against="Fine-tuning of LoRA",
        title=f"MiniLM on {title}: accuracy in percent",
        rows=(
            _alone("Frozen network, ridge head", "frozen", "transfer_texts.py"),
            _alone("Fine-tuning of LoRA", "fine_tuning", "transfer_texts.py"),
            _alone("MeRLin-ft of LoRA", "merlin_ft", "transfer_texts.py"),
        ),
        columns=(Column("accuracy", changes),),
    )
