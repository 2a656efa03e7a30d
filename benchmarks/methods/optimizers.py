"""A trained optimizer beside Adam whose rate is tuned, on unseen problems within the horizon that it was trained for.

Every seed is an initialisation and an order of examples of the test split; all optimizers have the same ones. Adam's
rate is the one of 14 (factors of two below 1) with the smallest mean final loss over these very seeds, in favour of
Adam; so is that of Adam with a rate that falls along a cosine. Intervals are 95% ones over seeds (Student's t); those
of differences are over pairs of the same seed. Steps to Adam's final loss are the first ones after which the loss is as
low as that of Adam at its end, with the same seed; a seed that never gets there counts as the horizon.

Besides the problems of the training, other networks (`--model`) and other data (`--store`) may be asked for.

    python -m benchmarks.methods.optimizers runs/learned_optimizers_mlp
    python -m benchmarks.methods.optimizers runs/learned_optimizers_mlp --store usps_8x8 --model "{kind: mlp}"
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.pictures import loss_curves
from benchmarks.report import Report, print_wide, progress
from benchmarks.scripts import LONG_OUT, options, run_main, settings
from distmeta import checkpoint as checkpoints
from distmeta.config import AdamRuleConfig, LearnedOptimizerConfig, RunConfig
from distmeta.config.load import change
from distmeta.config.optimizers import RuleConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.engine.ops import EagerOps
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.tasks import build_source
from distmeta.training.seeds import student_t

LEARNED, ADAM, COSINE = "learned", "Adam", "Adam, cosine"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half:.2g}"


@dataclass(frozen=True)
class Row:
    """An optimizer in one setting.

    Attributes:
        setting: Network and data.
        optimizer: Its name.
        rate: Its tuned rate; None if it has none.
        final: Final loss.
        difference: Its difference to Adam's.
        steps: Steps to Adam's final loss.
        reached: Seeds that get there within the horizon.
    """

    setting: str
    optimizer: str
    rate: float | None
    final: Estimate
    difference: Estimate
    steps: Estimate
    reached: int


def estimate_of(values: Sequence[float]) -> Estimate:
    """Mean and 95% interval."""
    half = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(statistics.mean(values), half)


def rates(count: int) -> list[float]:
    """Rates by factors of two, the largest of them 1."""
    return [2.0**-k for k in range(count)][::-1]


def losses(config: RunConfig, rule: RuleConfig | None, meta: Params | None, seeds: int) -> Tensor:
    """Losses of the queries [S, K + 1] along the trajectories of S test tasks; infinite where they are no numbers.

    Args:
        config: The problems, and the learner.
        rule: The optimizer; None takes that of the configuration.
        meta: Its parameters; None takes the initial ones.
        seeds: S.
    """
    learner_config = config.algorithm.learner
    if rule is not None:
        learner_config = learner_config.model_copy(update={"rule": rule})
    algorithm_config = config.algorithm.model_copy(update={"learner": learner_config})
    config = config.model_copy(update={"algorithm": algorithm_config})
    source = build_source(config.tasks, config.seed, dtype_of(config))
    algorithm = build_algorithm(config, source.signature)
    ops = EagerOps(algorithm.learner, "vmap", algorithm.scored, "flat", training=False)
    tasks = source.episodes(source.specs("test", 0, seeds), algorithm.eval_roles)
    own = algorithm.learner.init(config.seed) if meta is None else meta
    own = own | algorithm.learner.backbone.buffers()
    visits = ops.walk(own, tasks, marks=(0,))
    found = torch.stack([ops.score(own, visit.state, tasks).metrics["loss"] for visit in visits], 1)
    return torch.nan_to_num(found.double(), nan=math.inf)


def tuned(config: RunConfig, schedule: str, count: int, seeds: int) -> tuple[float, Tensor]:
    """The best rate of Adam, and its losses."""
    found: dict[float, Tensor] = {}
    for rate in rates(count):
        rule = AdamRuleConfig.model_validate({"lr": rate, "schedule": schedule})
        found[rate] = losses(config, rule, None, seeds)
    best = min(found, key=lambda rate: float(found[rate][:, -1].mean()))
    if best in (min(found), max(found)):
        progress(f"the best rate {best:g} is the end of the range")
    return best, found[best]


def steps_to(curve: Tensor, goal: float) -> int | None:
    """The first number of steps after which a curve [K + 1] is as low as `goal`."""
    reached = (curve <= goal).nonzero()
    return int(reached[0]) if len(reached) else None


def compare(setting: str, curves: Mapping[str, Tensor], rate_of: Mapping[str, float]) -> list[Row]:
    """A row for each optimizer; `curves` are losses [S, K + 1] by optimizer."""
    goals, rows = curves[ADAM][:, -1].tolist(), []
    for name, curve in curves.items():
        final = curve[:, -1].tolist()
        steps = [steps_to(each, goal) for each, goal in zip(curve, goals, strict=True)]
        horizon = curve.shape[1] - 1
        rows.append(
            Row(
                setting,
                name,
                rate_of.get(name),
                estimate_of(final),
                estimate_of([value - goal for value, goal in zip(final, goals, strict=True)]),
                estimate_of([horizon if each is None else each for each in steps]),
                sum(each is not None for each in steps),
            )
        )
    return rows


def table(rows: Sequence[Row], seeds: int) -> list[dict[str, object]]:
    return [
        {
            "setting": row.setting,
            "optimizer": row.optimizer,
            "rate": None if row.rate is None else f"{row.rate:.2g}",
            "final loss": row.final,
            "minus Adam's": row.difference,
            "steps to Adam's": row.steps,
            "reached": f"{row.reached} of {seeds}",
        }
        for row in rows
    ]


def settings_of(config: RunConfig, models: Sequence[str], stores: Sequence[str]) -> dict[str, RunConfig]:
    """Configurations by name: the training's own, other networks, other data."""
    found = {"as trained": config}
    found |= {f"model {model}": change(config, [f"model={model}"]) for model in models}
    return found | {f"data {store}": change(config, [f"tasks.store={store}"]) for store in stores}


def main() -> None:
    parser = options(__doc__, default_out=LONG_OUT)
    parser.add_argument("checkpoint", help="a checkpoint of a learned optimizer, or the folder of a run")
    parser.add_argument("--which", default="latest", choices=("latest", "previous", "best"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=int, default=14, help="rates of Adam that are tried")
    parser.add_argument("--model", action="append", default=[], metavar="SECTION", help="another network")
    parser.add_argument("--store", action="append", default=[], metavar="NAME", help="other data")
    args = parser.parse_args()
    checkpoint = checkpoints.load(args.checkpoint, args.which)
    if checkpoint.config.algorithm.learner.kind != LearnedOptimizerConfig().kind:
        raise UserError("it holds no optimizer", where=args.checkpoint, allowed="a learned optimizer")
    report = Report("optimizers", args.out)
    rows: list[Row] = []
    pictures: dict[str, dict[str, list[float]]] = {}
    for name, config in settings_of(checkpoint.config, args.model, args.store).items():
        rate, adam = tuned(config, "constant", args.rates, args.seeds)
        falling, cosine = tuned(config, "cosine", args.rates, args.seeds)
        learned = losses(config, None, checkpoint.averaged, args.seeds)
        curves = {LEARNED: learned, ADAM: adam, COSINE: cosine}
        rows += compare(name, curves, {ADAM: rate, COSINE: falling})
        pictures[name] = {each: curve.mean(0).tolist() for each, curve in curves.items()}
        progress(f"{name}: learned {rows[-3].final}, Adam {rows[-2].final}, with cosine {rows[-1].final}")
        report.write(settings=settings(args), rows=[asdict(row) for row in rows], curves=pictures)
    loss_curves(args.out / "optimizers.png", pictures, report.title)
    print_wide(table(rows, args.seeds))


if __name__ == "__main__":
    run_main(main)
