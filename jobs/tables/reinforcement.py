"""Meta-reinforcement learning, beside the published returns: 2D navigation and HalfCheetah.

distmeta table jobs/tables/reinforcement.py:navigation --budget 20 --seeds 3
distmeta table jobs/tables/reinforcement.py:cheetah --budget 60          # needs distmeta[rl]
"""

from distmeta.config.table import Column, Row, Table, View

STEPS = tuple(
    View(f"{steps} step{'s' if steps > 1 else ''}", metric="return", evaluate=(f"algorithm.evaluate.steps={steps}",))
    for steps in (1, 2, 3)
)
PUBLISHED = "Raghu et al. 2020 (arXiv 1909.09157), table 2, whose budget is larger."
_LONG = ("train.steps=1000000",)
"""As many steps as the budget has room for."""


def navigation() -> Table:
    return Table(
        name="navigation",
        against="MAML",
        title="2D navigation: return after adaptation",
        rows=(
            Row("MAML", "../rl.py:navigation_maml", _LONG),
            Row("First-order MAML", "../rl.py:navigation_fomaml", _LONG),
            Row("ANIL", "../rl.py:navigation_anil", _LONG),
            Row("MAML, TRPO", "../rl.py:navigation_maml_trpo", _LONG),
            Row("One policy for all goals", "../rl.py:navigation_pretrained", _LONG),
        ),
        columns=(Column("", views=STEPS),),
        published={("MAML", "1 step"): "-20.3 ± 3.2", ("ANIL", "1 step"): "-20.1 ± 2.3"},
        source=PUBLISHED,
    )


def cheetah() -> Table:
    return Table(
        name="cheetah",
        title="HalfCheetah, forward or backward: return after adaptation",
        rows=(
            Row("MAML", "../rl.py:cheetah_dir_maml", _LONG),
            Row("ANIL", "../rl.py:cheetah_dir_anil", _LONG),
            Row("One policy for both", "../rl.py:cheetah_dir_pretrained", _LONG),
        ),
        columns=(Column("", views=STEPS),),
        published={("MAML", "1 step"): "170.4", ("ANIL", "1 step"): "363.2"},
        source=PUBLISHED,
    )
