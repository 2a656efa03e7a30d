"""`engine.strategy = measured`, with engines whose times are made up and a clock that follows them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch

from distmeta.config import EngineConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Params, Update
from distmeta.engine import measured as module
from distmeta.engine.auto import Choice
from distmeta.engine.graphs.cache import cache_folder
from distmeta.engine.measured import choose_by_time

from ...adapting import query_term
from ...numerics.problems import EXACT, classification, gradient, mlp

TASKS = 4
MEASURED = EngineConfig(strategy="measured")
LONG = 10**9  # tasks


class Bench:
    """Replaces the engine: an update of a strategy takes as many seconds as `times` says, or raises.

    Attributes:
        made: Configurations of all engines.
    """

    def __init__(self, times: Mapping[str, float | Exception]) -> None:
        self._times, self._now = times, 0.0
        self.made: list[EngineConfig] = []

    def perf_counter(self) -> float:
        return self._now

    def engine(self, learner: Any, estimator: Any, terms: Any, config: EngineConfig, lanes: int) -> Bench:
        self.made.append(config)
        return self

    def update(self, meta: Params, episodes: Any) -> tuple[Update, Params]:
        seconds = self._times[self.made[-1].strategy]
        if isinstance(seconds, Exception):
            raise seconds
        self._now += seconds
        return Update({}, 1.0), {}

    @property
    def strategies(self) -> list[str]:
        return [config.strategy for config in self.made]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Choice, Bench]]:
    learner, episodes = gradient(mlp(), Phase(steps=2)), classification(6, tasks=TASKS)

    def run(
        times: Mapping[str, float | Exception],
        *,
        lanes: int = 1,
        engine: EngineConfig = MEASURED,
        filters: bool = False,
        limits: Collection[str] = (),
        **options: Any,
    ) -> tuple[Choice, Bench]:
        bench = Bench(times)
        monkeypatch.setattr(learner.backbone, "limits", dict.fromkeys(limits, "reason"), raising=False)
        monkeypatch.setattr(module, "Engine", bench.engine)
        monkeypatch.setattr(module, "time", bench)
        meta = learner.init(0) | ({"filters": torch.zeros(1, 1, 3, 3)} if filters else {})
        return choose_by_time(learner, EXACT, query_term(), engine, lanes, meta, episodes, **options), bench

    return run


Choose = Callable[..., tuple[Choice, Bench]]


@pytest.mark.parametrize(("loop", "vmap", "fastest"), [(0.5, 0.25, "vmap"), (0.25, 0.5, "loop")])
def test_the_faster_eager_strategy_is_chosen_for_short_runs(
    choose: Choose, loop: float, vmap: float, fastest: str
) -> None:
    choice, bench = choose({"loop": loop, "vmap": vmap}, tasks_ahead=100)
    assert (choice.strategy, choice.chunk, choice.memory) == (fastest, None, "auto")
    assert choice.seconds == pytest.approx({"loop": loop / TASKS, "vmap": vmap / TASKS})
    assert (choice.compiled, choice.remembered, choice.failures) == (False, False, {})
    assert bench.strategies == ["loop", "vmap"]
    assert choice.apply(MEASURED).strategy == fastest


@pytest.mark.parametrize(
    ("loop", "vmap", "filters", "compiled"),
    [
        (1.0, 1.0, False, ["compiled", "compiled_vmap"]),
        (1.0, 1.0, True, ["compiled"]),
        (5.0, 1.0, False, ["compiled_vmap"]),
        (5.0, 1.0, True, ["compiled_vmap"]),
        (1.0, 5.0, False, ["compiled"]),
    ],
)
def test_long_runs_also_try_the_compiled_counterparts_of_close_strategies(
    choose: Choose, loop: float, vmap: float, filters: bool, compiled: list[str]
) -> None:
    times = {"loop": loop, "vmap": vmap, "compiled": 0.5, "compiled_vmap": 0.25}
    choice, bench = choose(times, filters=filters, tasks_ahead=LONG)
    assert bench.strategies == ["loop", "vmap", *compiled]
    assert choice.compiled
    assert choice.strategy == compiled[-1]


@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize(("loop", "vmap"), [(1.0, 1.0), (50.0, 1.0), (1.0, 50.0)])
def test_on_a_gpu_long_runs_try_both_compiled_strategies(
    choose: Choose, loop: float, vmap: float, filters: bool
) -> None:
    times = {"loop": loop, "vmap": vmap, "compiled": 0.5, "compiled_vmap": 0.25}
    choice, bench = choose(times, filters=filters, tasks_ahead=LONG, device="cuda:0")
    assert bench.strategies == ["loop", "vmap", "compiled", "compiled_vmap"]
    assert choice.strategy == "compiled_vmap"


@pytest.mark.parametrize(
    ("limits", "tried"),
    [
        (["vmap"], ["loop", "compiled"]),
        (["compile"], ["loop", "vmap"]),
        (["vmap", "compile"], ["loop"]),
        (["second_order"], ["loop", "vmap", "compiled", "compiled_vmap"]),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_network_does_not_support_is_not_tried(
    choose: Choose, limits: list[str], tried: list[str], device: str
) -> None:
    times = {"loop": 1.0, "vmap": 0.9, "compiled": 0.5, "compiled_vmap": 0.1}
    choice, bench = choose(times, limits=limits, tasks_ahead=LONG, device=device)
    assert bench.strategies == tried
    assert choice.strategy == tried[-1]


def test_a_choice_is_not_remembered_for_a_network_of_other_limits(choose: Choose) -> None:
    times = {"loop": 1.0, "vmap": 0.5}
    assert choose(times, method="maml", tasks_ahead=100)[0].strategy == "vmap"
    assert choose(times, method="maml", tasks_ahead=100, limits=["vmap"])[0].strategy == "loop"


@pytest.mark.parametrize(("seconds_ahead", "compiled"), [(300.0, True), (299.0, False)])
def test_a_run_is_long_if_it_repays_twenty_compilations(choose: Choose, seconds_ahead: float, compiled: bool) -> None:
    times = {"loop": 1.0, "vmap": 8.0, "compiled": 0.5}
    choice, _ = choose(times, tasks_ahead=LONG, seconds_ahead=seconds_ahead)
    assert choice.compiled == compiled


def test_a_strategy_that_raises_is_left_out_with_the_reason(choose: Choose) -> None:
    choice, _ = choose({"loop": 0.5, "vmap": ValueError("no\nbatching rule")}, tasks_ahead=100)
    assert choice.strategy == "loop"
    assert choice.failures == {"vmap": "ValueError: no batching rule"}
    assert "loop 125" in choice.reason and "vmap failed: ValueError: no batching rule" in choice.reason


def test_strategies_that_all_raise_are_an_error(choose: Choose) -> None:
    times = dict.fromkeys(("loop", "vmap", "compiled", "compiled_vmap"), RuntimeError("broken"))
    with pytest.raises(UserError, match=r"^engine\.strategy: every strategy fails \(loop: RuntimeError: broken; vmap"):
        choose(times, tasks_ahead=LONG)


def test_chunks_of_vmap_occupy_every_lane(choose: Choose) -> None:
    choice, _ = choose({"loop": 1.0, "vmap": 0.5}, lanes=3, tasks_ahead=100)
    assert choice.chunk == math.ceil(TASKS / 3)
    choice, _ = choose({"loop": 0.5, "vmap": 1.0}, lanes=3, tasks_ahead=100)
    assert choice.chunk is None
    engine = EngineConfig(strategy="measured", chunk=1)
    choice, bench = choose({"loop": 1.0, "vmap": 0.5}, lanes=3, engine=engine, tasks_ahead=100)
    assert choice.chunk == 1
    assert {config.chunk for config in bench.made} == {1}


def test_a_choice_is_stored_by_method_and_shapes(choose: Choose) -> None:
    times = {"loop": 0.5, "vmap": 0.25}
    first, _ = choose(times, method="maml", tasks_ahead=100)
    again, bench = choose({}, method="maml", tasks_ahead=100)
    assert again == Choice(**{**vars(first), "remembered": True, "took_s": 0.0})
    assert bench.made == []
    assert "chosen by an earlier run" in again.reason
    for changes in ({"method": "anil"}, {"method": "maml", "filters": True}, {"method": "maml", "lanes": 2}):
        _, bench = choose(times, tasks_ahead=100, **changes)
        assert bench.strategies == ["loop", "vmap"]
    _, bench = choose(times, tasks_ahead=100)
    assert bench.strategies == ["loop", "vmap"], "without a method, choices are not stored"


def test_a_stored_choice_of_a_short_run_is_extended_for_a_long_one(choose: Choose) -> None:
    choose({"loop": 5.0, "vmap": 1.0}, method="maml", tasks_ahead=10)
    choice, bench = choose({"compiled_vmap": 0.25}, method="maml", tasks_ahead=LONG)
    assert bench.strategies == ["compiled_vmap"]
    assert (choice.strategy, choice.remembered) == ("compiled_vmap", False)
    assert set(choice.seconds) == {"loop", "vmap", "compiled_vmap"}


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"strategy": "loop"})])
def test_a_damaged_file_is_replaced(choose: Choose, content: str) -> None:
    times = {"loop": 0.5, "vmap": 0.25}
    choose(times, method="maml", tasks_ahead=100)
    [path] = cache_folder().glob("choice-*.json")
    path.write_text(content)
    choice, bench = choose(times, method="maml", tasks_ahead=100)
    assert (choice.strategy, bench.strategies) == ("vmap", ["loop", "vmap"])
    assert json.loads(path.read_text())["strategy"] == "vmap"
