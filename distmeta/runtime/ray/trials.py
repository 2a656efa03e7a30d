"""Independent runs by Ray Tune, several at a time: how they are found, placed and waited for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from typing_extensions import override

from distmeta.config import RuntimeConfig
from distmeta.core.signals import unwrapped
from distmeta.runtime.ray.cluster import connect, environment_variables

Answer = Mapping[str, Any]
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of a run are those of the process that asks for it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}


class _Shown(tune.Callback):
    """Passes answers on."""

    def __init__(self, shown: Callable[[int, Answer], None]) -> None:
        self._shown = shown

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps its state in a file, to restore what is never restored."""
        return {}

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._shown(trial.last_result["number"], trial.last_result["answer"])


def run_trials(
    trial: Callable[[int], Answer],
    count: int,
    *,
    at_once: int,
    cpus: float,
    address: str | None = None,
    shown: Callable[[int, Answer], None] = lambda number, answer: None,
) -> list[Answer]:
    """Call a function with 0 to `count` - 1, each call in a process of the cluster.

    Args:
        trial: Answers a number with a JSON object; what it raises ends all of them.
        count: Number of calls.
        at_once: Number of calls at a time.
        cpus: Cores that each needs.
        address: Address of a Ray cluster; None takes RAY_ADDRESS, or starts one that ends with this call.
        shown: Called here with each answer as it comes.

    Returns:
        The answers in the order of their numbers.

    Raises:
        UserError: Nothing answers at the address.
        RuntimeError: A call has raised, or its process has died.
    """

    def answer(space: Mapping[str, int]) -> dict[str, Any]:
        return {"number": space["number"], "answer": trial(space["number"])}

    logger: Callable[[], tune.Callback] = JsonLoggerCallback  # without it, Tune warns of every trial
    with environment_variables(_SETTINGS), tempfile.TemporaryDirectory(prefix="distmeta-tune-") as folder:
        cluster = connect(RuntimeConfig(workers=at_once, cpus_per_worker=cpus, address=address))
        try:
            tuner = tune.Tuner(
                tune.with_resources(answer, {"cpu": cpus}),
                param_space={"number": tune.grid_search(list(range(count)))},
                tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    verbose=0,
                    callbacks=[logger(), _Shown(shown)],
                    failure_config=tune.FailureConfig(fail_fast=True),
                ),
            )
            with unwrapped():  # Ray waits in compiled code
                results = tuner.fit()
        finally:
            cluster.disconnect()
    if results.errors:
        raise RuntimeError(str(results.errors[0]))
    found = {
        result.metrics["number"]: result.metrics["answer"]
        for result in (results[i] for i in range(len(results)))
        if result.metrics
    }
    return [found[number] for number in range(count)]
