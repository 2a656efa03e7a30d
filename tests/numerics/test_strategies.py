"""All strategies compute the same sums, for every learner and every estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest

from distmeta.config import (
    EngineConfig,
    FilmConfig,
    GeneratorConfig,
    ImplicitConfig,
    InContextConfig,
    LstmConfig,
    NeighbourConfig,
    NeuralProcessConfig,
    NewtonConfig,
    Phase,
    RidgeConfig,
)
from distmeta.engine.graphs import compiled
from distmeta.methods.estimators import ESTIMATORS
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.estimators.implicit import Implicit
from distmeta.methods.learners import LEARNERS
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.film import FilmLearner
from distmeta.methods.learners.generator import GeneratorLearner
from distmeta.methods.learners.in_context import InContextLearner
from distmeta.methods.learners.lstm import LstmLearner
from distmeta.methods.learners.neighbours import NeighbourLearner
from distmeta.methods.learners.neural_process import NeuralProcessLearner
from distmeta.methods.learners.newton import NewtonLearner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.methods.learners.ridge import RidgeLearner
from distmeta.models.base import Backbone

from .problems import (
    DISPLACEMENT,
    EXACT,
    FIRST_ORDER,
    LOOP,
    VMAP,
    WAY,
    classification,
    complete,
    conv4,
    gradient,
    mlp,
    perturbed,
    update,
)

TASKS = 3
# By kind, and by what differs from the first row of the kind.
LEARNER_ROWS: dict[str, Callable[[Backbone], Learner]] = {
    "gradient": lambda backbone: gradient(backbone, Phase(lr=0.2, steps=2)),
    "gradient, head": lambda backbone: gradient(backbone, Phase(groups=("head",), lr=0.2, steps=2)),
    "gradient, rates": lambda backbone: gradient(backbone, Phase(lr=0.2), learned_lr=True),
    "gradient, mini-batches": lambda backbone: gradient(backbone, Phase(lr=0.1, steps=3, batch=4)),
    "gradient, Adam": lambda backbone: gradient(backbone, Phase(groups=("head",), lr=0.01, steps=2, optimizer="adam")),
    "gradient, L2-SP": lambda backbone: gradient(backbone, Phase(lr=0.2, steps=2, l2sp=0.5)),
    "gradient, fresh": lambda backbone: gradient(backbone, Phase(lr=0.2, steps=2), head="fresh"),
    "gradient, phases": lambda backbone: gradient(
        backbone, Phase(groups=("head",), lr=0.2), Phase(lr=0.1, objective="entropy")
    ),
    "newton_cg": lambda backbone: NewtonLearner(NewtonConfig(steps=1, cg_steps=2), backbone, "cross_entropy"),
    "prototype": lambda backbone: PrototypeLearner(backbone, WAY),
    "neighbours": lambda backbone: NeighbourLearner(
        NeighbourConfig(similarity="euclidean", neighbours=2), backbone, WAY
    ),
    "neighbours, context": lambda backbone: NeighbourLearner(NeighbourConfig(context_steps=2), backbone, WAY),
    "ridge": lambda backbone: RidgeLearner(RidgeConfig(regularisation=0.3), backbone, WAY),
    "lstm": lambda backbone: LstmLearner(LstmConfig(width=5, layers=2), backbone),
    "neural_process": lambda backbone: NeuralProcessLearner(NeuralProcessConfig(width=6), backbone, classifies=True),
    "in_context": lambda backbone: InContextLearner(InContextConfig(width=8, attention_heads=2), backbone),
    "generator": lambda backbone: GeneratorLearner(GeneratorConfig(width=5), backbone, WAY),
    "film": lambda backbone: FilmLearner(FilmConfig(width=6), backbone, classifies=True, where="algorithm.learner"),
}
ELSEWHERE = {"python", "learned_optimizer", "evolution", "statistics"}
"""Those that keep a state from step to step, and those without inner steps: `test_learned_optimizers.py`,
`test_evolution.py`, `test_test_time.py`."""
ESTIMATOR_ROWS: dict[str, Estimator] = {
    "backprop": EXACT,
    "backprop, first order": FIRST_ORDER,
    "displacement": DISPLACEMENT,
    "implicit": Implicit(ImplicitConfig(steps=2)),
}
PROXIMAL = ("gradient, L2-SP", "newton_cg")
"""Learners with an inner problem that has an implicit gradient."""
PAIRS = [
    (kind, estimator)
    for kind, estimator in product(LEARNER_ROWS, ESTIMATOR_ROWS)
    if (estimator != "implicit" or kind in PROXIMAL) and (kind, estimator) != ("newton_cg", "backprop")
]
BACKBONES: dict[str, tuple[Callable[[], Backbone], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "strided conv4": (conv4, (1, 16, 16)),
    "pooled inductive conv4": (lambda: conv4(downsample="pool", norm="support"), (1, 16, 16)),
}
EAGER = (
    VMAP,
    EngineConfig(strategy="vmap", chunk=2),
    EngineConfig(strategy="vmap", chunk=TASKS + 3),
    EngineConfig(strategy="loop", memory="flat"),
    EngineConfig(strategy="vmap", memory="flat"),
)


def test_every_learner_and_every_estimator_has_a_row() -> None:
    assert {name.split(",")[0] for name in LEARNER_ROWS} == set(LEARNERS) - ELSEWHERE
    assert {name.split(",")[0] for name in ESTIMATOR_ROWS} == set(ESTIMATORS) - ELSEWHERE


def assert_strategies_agree(kind: str, estimator: str, network: str, *engines: EngineConfig, tolerance: float) -> None:
    """Check that the engines give the sums of the eager loop."""
    make, shape = BACKBONES[network]
    learner, episodes = LEARNER_ROWS[kind](make()), classification(*shape, tasks=TASKS, shots=2, queries=2)
    meta = perturbed(learner.init(0), size=0.05)
    reference = update(learner, ESTIMATOR_ROWS[estimator], meta, episodes, LOOP)
    size = max(1.0, sum(float(tensor.square().sum()) for tensor in reference.grad.values()) ** 0.5)
    for engine in engines:
        total = update(learner, ESTIMATOR_ROWS[estimator], meta, episodes, engine)
        assert total.weight == reference.weight == TASKS
        assert total.metrics == pytest.approx(reference.metrics, rel=tolerance)
        # A zero derivative may be a name that is missing, or a tensor of zeros.
        actual, expected = complete(total.grad, meta), complete(reference.grad, meta)
        for name, tensor in expected.items():
            assert float((actual[name] - tensor).norm()) < tolerance * size, name


def eager_mark(kind: str, network: str) -> Sequence[pytest.MarkDecorator]:
    """Pooling and statistics of the support set matter to the backbone: two kinds of learners are enough."""
    if network == "mlp":
        return ()
    return [pytest.mark.thorough if kind in ("gradient", "prototype") else pytest.mark.slow]


EAGER_ROWS = [
    pytest.param(kind, estimator, network, marks=eager_mark(kind, network))
    for (kind, estimator), network in product(PAIRS, BACKBONES)
]


@pytest.mark.parametrize(("kind", "estimator", "network"), EAGER_ROWS)
def test_all_eager_strategies_agree(kind: str, estimator: str, network: str) -> None:
    assert_strategies_agree(kind, estimator, network, *EAGER, tolerance=1e-12)


def is_default(kind: str, estimator: str, network: str, graphs: str, memory: str, strategy: str) -> bool:
    """Rows on which compiled strategies are tested by default; all of them take many minutes."""
    if estimator != "backprop":
        return False
    if (kind, network) == ("gradient", "mlp"):
        return (strategy == "compiled") == ((graphs, memory) == ("operations", "unrolled"))
    if (kind, network) == ("gradient, Adam", "mlp"):
        return (graphs, memory, strategy) == ("operations", "unrolled", "compiled_vmap")
    return (kind, graphs, network, strategy) == ("prototype", "whole", "pooled inductive conv4", "compiled_vmap")


# A graph for the whole estimate, or one for each operation; memory matters to the latter alone.
MAX_OPERATIONS = {"whole": 10**9, "operations": -1}
GRAPHS = (("whole", "unrolled"), ("operations", "unrolled"), ("operations", "flat"))
STRATEGIES = ("compiled", "compiled_vmap")
ROWS = [
    pytest.param(*row, marks=pytest.mark.thorough if is_default(*row) else pytest.mark.slow)
    for pair, network, graphs, strategy in product(PAIRS, BACKBONES, GRAPHS, STRATEGIES)
    for row in ((*pair, network, *graphs, strategy),)
]
# Graphs take seconds to compile, deep ones a minute, so rows differ from the first one in one respect.
NATIVE_ROWS = [
    (kind, estimator, network, *graphs)
    for (kind, estimator), network, graphs in product(PAIRS, BACKBONES, GRAPHS)
    if (kind == "gradient") + (estimator == "backprop") + (network == "mlp") >= 2
    or (kind in PROXIMAL and estimator == "implicit" and network != "pooled inductive conv4")
    or (kind == "prototype" and estimator == "backprop")
]


@pytest.mark.parametrize(("kind", "estimator", "network", "graphs", "memory", "strategy"), ROWS)
@pytest.mark.usefixtures("interpreted")
def test_graphs_of_all_strategies_agree(
    kind: str, estimator: str, network: str, graphs: str, memory: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MAX_OPERATIONS_OF_ONE_GRAPH", MAX_OPERATIONS[graphs])
    engine = EngineConfig.model_validate({"strategy": strategy, "memory": memory})
    assert_strategies_agree(kind, estimator, network, engine, tolerance=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("kind", "estimator", "network", "graphs", "memory"), NATIVE_ROWS)
@pytest.mark.usefixtures("native")
def test_native_code_of_all_strategies_agrees(
    kind: str, estimator: str, network: str, graphs: str, memory: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MAX_OPERATIONS_OF_ONE_GRAPH", MAX_OPERATIONS[graphs])
    engine = EngineConfig.model_validate({"strategy": strategy, "memory": memory})
    assert_strategies_agree(kind, estimator, network, engine, tolerance=1e-10)
