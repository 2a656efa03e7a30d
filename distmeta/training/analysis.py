"""What meta-learning learnt (Raghu et al. 2020, arXiv 1909.09157), from checkpoints and unseen tasks.

    freezing     scores where blocks 1..k of the body stay as they are in the inner loop, k = 0 to all; without a head
    adaptation   each layer before the inner loop against itself after it
    training     each layer against itself in other checkpoints of the run
    between      each layer against itself in checkpoints of other runs: other seeds, other methods

The first is evaluation under a changed learner. The others compare outputs of layers for the queries of the tasks
(`distmeta.analysis`): workers send sums, which are added in the order of the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from distmeta import checkpoint as checkpoints
from distmeta.analysis.layers import ShardSums, pack
from distmeta.analysis.similarity import similarity
from distmeta.checkpoint import Checkpoint
from distmeta.checkpoint.reading import Which, checkpoints_by_step
from distmeta.checkpoint.storage import Folder
from distmeta.config import EvaluateConfig, NeighbourConfig, RunConfig
from distmeta.config.load import change
from distmeta.core.errors import UserError
from distmeta.core.types import Params, Snapshot, Work
from distmeta.methods.build import build_evaluators
from distmeta.models.base import HEAD
from distmeta.program.program import ANALYSE
from distmeta.program.scoring import headline
from distmeta.tracking.uris import mask_uri
from distmeta.training.analysis_log import log_analysis, run_of_tracker
from distmeta.training.analysis_result import AnalysisResult, Freezing, Pair, Part
from distmeta.training.evaluate import evaluate_loaded, trusted, workers

FREEZING, ADAPTATION, TRAINING, BETWEEN = PARTS = ("freezing", "adaptation", "training", "between")
MAX_VIEWS = 8
"""Checkpoints of a run that are compared: the first, the last, and others in even distances."""
_SPLIT = "test"
_FIELD = "frozen"
"""Field of a learner's configuration that names parameter groups which its steps do not move."""


@dataclass(frozen=True)
class _Request:
    """What is analysed.

    Attributes:
        paths: Checkpoints or runs; the first one's tasks and network are used.
        checkpoint: The first one.
        config: Its configuration, with the caller's changes.
        tasks: Number of tasks.
        which: Which checkpoint of a run.
        trust_code: Whether code that checkpoints name may be run.
    """

    paths: Sequence[str]
    checkpoint: Checkpoint
    config: RunConfig
    tasks: int
    which: Which
    trust_code: bool


def analyze(
    paths: Sequence[str],
    *,
    what: Sequence[str] = (),
    which: Which = "latest",
    tasks: int = 100,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> AnalysisResult:
    """Analyse one checkpoint, or compare several, on tasks of the split `test`.

    Args:
        paths: Checkpoints, or folders of runs. Tasks and network are those of the first.
        what: Of `PARTS`; none: for one path, freezing and adaptation as far as its learner takes inner steps, for
            several, `between`.
        which: Which checkpoint of a run's folder.
        tasks: Number of tasks.
        overrides: Changes of the first one's configuration, `field=value`; see `evaluate`. `tracking.kind=mlflow`
            records the analysis as a run.
        trust_code: Run the code that checkpoints name.

    Raises:
        UserError: There is no intact checkpoint, the changes do not fit it, the networks of two differ, or a part is
            not defined for what is given.
    """
    checkpoint = trusted(paths[0], which, trust_code=trust_code)
    request = _Request(paths, checkpoint, change(checkpoint.config, overrides), tasks, which, trust_code)
    parts = list(dict.fromkeys(what or _default(request)))
    for part in parts:
        _check(part, request)
    shown = [mask_uri(path) for path in paths]
    settings = {"checkpoints": shown, "what": parts, "tasks": tasks, "step": checkpoint.step}
    with run_of_tracker(request.config.tracking, request.config.name, settings) as tracker:
        found = {part: _ANALYSES[part](request) for part in parts}
        result = AnalysisResult(shown, checkpoint.step, tasks, found, tracker.address())
        log_analysis(tracker, result)
    return result


def _default(request: _Request) -> list[str]:
    if len(request.paths) > 1:
        return [BETWEEN]
    learner = request.config.algorithm.evaluated_learner()
    if not learner.num_steps:
        what = f"the learner '{learner.kind}' takes no inner steps, and there is one checkpoint"
        raise UserError(what, where="--what", allowed="training, or between with further checkpoints")
    return [part for part in (FREEZING, ADAPTATION) if part == ADAPTATION or _FIELD in type(learner).model_fields]


def _check(part: str, request: _Request) -> None:
    """Check that a part is defined for what is given."""
    learner, count = request.config.algorithm.evaluated_learner(), len(request.paths)
    if twice := next((path for path in request.paths if request.paths.count(path) > 1), None):
        raise UserError(f"'{mask_uri(twice)}' is given twice", where="CKPT", allowed="different checkpoints")
    if (part == BETWEEN) != (count > 1):
        what = f"'{part}' takes {'several checkpoints' if part == BETWEEN else 'one checkpoint'}, not {count}"
        raise UserError(what, where="--what", allowed=BETWEEN if count > 1 else ", ".join(PARTS[:-1]))
    if part == FREEZING and _FIELD not in type(learner).model_fields:
        what = f"the learner '{learner.kind}' has no inner steps that move groups of parameters"
        raise UserError(what, where="--what freezing", allowed="a learner 'gradient' at evaluation")
    if part == ADAPTATION and not learner.num_steps:
        what = f"the learner '{learner.kind}' takes no inner steps"
        raise UserError(what, where="--what adaptation", allowed="a learner with inner steps at evaluation")


def _freezing(request: _Request) -> Part:
    config, signature = request.config, request.checkpoint.signature
    learner = config.algorithm.evaluated_learner()
    blocks = next(iter(build_evaluators(config, signature).values())).backbone.blocks()
    learners = {"none": learner}
    for count in range(1, len(blocks) + 1):
        frozen = (*getattr(learner, _FIELD), *blocks[:count])
        learners[_span(blocks[:count])] = learner.model_copy(update={_FIELD: frozen})
    if config.tasks.has_classes:
        learners["all, no head (NIL)"] = NeighbourConfig(similarity="cosine")
    rows = []
    for name, each in learners.items():
        algorithm = config.algorithm
        if name != "none":
            algorithm = algorithm.model_copy(update={"evaluate": EvaluateConfig(learner=each)})
        found = evaluate_loaded(
            request.checkpoint, config.model_copy(update={"algorithm": algorithm}), _SPLIT, request.tasks
        )
        score = headline(found.scores, found.protocol)
        rows.append(Freezing(name, score.metric, score.mean[0], score.mean[-1], score.interval[-1]))
    return Part(rows)


def _adaptation(request: _Request) -> Part:
    return _compare(request, ("before", "after"), [])


def _training(request: _Request) -> Part:
    path = request.paths[0]
    by_step = checkpoints_by_step(Folder.at(path))
    if len(by_step) < 2:
        where = f"--what training, {mask_uri(path)}"
        raise UserError(
            f"has {len(by_step)} checkpoints of a run", where=where, allowed="a run's folder with two or more"
        )
    steps, gaps = sorted(by_step), min(MAX_VIEWS, len(by_step)) - 1
    steps = [steps[round(place * (len(steps) - 1) / gaps)] for place in range(gaps + 1)]
    loaded = [checkpoints.load(by_step[step].url) for step in steps]
    first = _Request(
        [each.path for each in loaded], loaded[0], request.config, request.tasks, request.which, request.trust_code
    )
    return _compare(first, [f"step {step}" for step in steps], loaded[1:])


def _between(request: _Request) -> Part:
    others = [trusted(path, request.which, trust_code=request.trust_code) for path in request.paths[1:]]
    return _compare(request, [mask_uri(path) for path in request.paths], others)


def _compare(request: _Request, names: Sequence[str], others: Sequence[Checkpoint]) -> Part:
    """Compare all pairs of views (`distmeta.analysis.layers`): of a checkpoint with others, or before and after."""
    checkpoint, config = request.checkpoint, request.config
    with workers(checkpoint, config) as (program, executor):
        backbone = next(iter(program.algorithm.evaluators.values())).backbone
        own = {**checkpoint.averaged, **checkpoint.buffers}
        needed = (*backbone.groups()["body"], *backbone.buffers())
        optional = backbone.head_names(HEAD) if backbone.has_head else ()
        views = [_parameters(other, own, needed, optional) for other in others]
        snapshot = Snapshot(checkpoint.step, checkpoint.averaged, checkpoint.buffers, pack(views))
        shards = program.source.shards(_SPLIT, 0, request.tasks, config.runtime.shard_size)
        found = {result.shard: result.value for result in executor.map(Work(ANALYSE, config.engine), snapshot, shards)}
    total: ShardSums = found[shards[0].index]
    for shard in shards[1:]:
        total = total + found[shard.index]
    rows = [
        Pair(layer, names[first], names[second], sums.samples, sums.total.shape[1], similarity(sums, first, second))
        for layer, sums in total.layers.items()
        for first in range(len(names))
        for second in range(first + 1, len(names))
    ]
    return Part(rows, total.left_out)


def _parameters(other: Checkpoint, own: Params, needed: Sequence[str], optional: Sequence[str]) -> Params:
    """The parameters of a checkpoint that outputs of layers depend on.

    Raises:
        UserError: They are not those of the same network.
    """
    given = {**other.averaged, **other.buffers}

    def fits(name: str) -> bool:
        return name in given and name in own and _kind(given[name]) == _kind(own[name])

    if wrong := next((name for name in needed if not fits(name)), None):
        what = f"its parameter '{wrong}' is {_kind(given[wrong])}" if wrong in given else f"it has no '{wrong}'"
        is_own = f"'{wrong}' {_kind(own[wrong])}, as in the first checkpoint" if wrong in own else "the same network"
        raise UserError(what, where=mask_uri(other.path), allowed=is_own)
    head = optional if all(fits(name) for name in optional) else ()
    return {name: given[name] for name in (*needed, *head)}


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")


def _span(blocks: Sequence[str]) -> str:
    return blocks[0] if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"


_ANALYSES: dict[str, Callable[[_Request], Part]] = {
    FREEZING: _freezing,
    ADAPTATION: _adaptation,
    TRAINING: _training,
    BETWEEN: _between,
}
