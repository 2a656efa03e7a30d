"""Meta-reinforcement learning, beside the published returns: 2D navigation and HalfCheetah.

distmeta table jobs/tables/reinforcement.py:navigation --budget 20 --seeds 3
distmeta table jobs/tables/reinforcement.py:cheetah --budget 60          # needs distmeta[rl]
"""

from distmeta.config.table import Column, Row, Table, View

RL2 = "RL2"
STEPPED = ("MAML", "First-order MAML", "ANIL", "MAML, TRPO", "MAML, PPO", "One policy for all goals")


def _after(steps: int, rows: tuple[str, ...] | None = None) -> View:
    changes = (f"algorithm.evaluate.steps={steps}",)
    return View(f"{steps} step{'s' if steps > 1 else ''}", metric="return", evaluate=changes, rows=rows)


PUBLISHED = "Raghu et al. 2020 (arXiv 1909.09157), table 2, whose budget is larger."
EPISODES = tuple(View(f"walk {number}", metric=f"return_{number}", rows=(RL2,)) for number in (1, 2))
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
            Row("MAML, PPO", "../rl.py:navigation_maml_ppo", _LONG),
            Row("One policy for all goals", "../rl.py:navigation_pretrained", _LONG),
            Row(RL2, "../rl.py:navigation_rl2", _LONG),
        ),
        columns=(Column("", views=tuple(_after(steps, STEPPED) for steps in (1, 2, 3)) + EPISODES),),
        published={("MAML", "1 step"): "-20.3 ± 3.2", ("ANIL", "1 step"): "-20.1 ± 2.3"},
        source=PUBLISHED,
        notes=(
            "A step adapts to 20 walks of 100 steps. RL2 takes no steps: its policy remembers the walks before, and "
            "has seen a single one before the second.",
        ),
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
        columns=(Column("", views=tuple(_after(steps) for steps in (1, 2, 3))),),
        published={("MAML", "1 step"): "170.4", ("ANIL", "1 step"): "363.2"},
        source=PUBLISHED,
    )
