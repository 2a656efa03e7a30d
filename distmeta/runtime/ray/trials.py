"""Independent runs by Ray Tune, several at a time: how they are found, placed and waited for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from typing_extensions import override

from distmeta.config import RuntimeConfig
from distmeta.runtime.ray.cluster import connect, environment_variables

Answer = Mapping[str, Any]
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of a run are those of the process that asks for it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}


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

    class Shown(tune.Callback):
        @override
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            shown(trial.last_result["number"], trial.last_result["answer"])

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
                    callbacks=[Shown()],
                    failure_config=tune.FailureConfig(fail_fast=True),
                ),
            )
            results = tuner.fit()
        finally:
            cluster.disconnect()
    if results.errors:
        raise RuntimeError(str(results.errors[0]))
    found = {result.metrics["number"]: result.metrics["answer"] for result in results if result.metrics}
    return [found[number] for number in range(count)]
