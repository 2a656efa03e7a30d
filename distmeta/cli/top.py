"""`distmeta jobs top`: what the workers of a run are doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from distmeta.cli.output import JsonOption, print_json, print_table
from distmeta.tracking.live import LiveRun
from distmeta.tracking.uris import tracking_uri

WORKERS_PATH = "workers/now.json"
"""The artifact that `distmeta.training.watch` keeps."""
SLOW = 1.5
"""A worker is called slow if its shards take this many times what is typical."""
_CLEAR = "\x1b[H\x1b[2J"


def top(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its id in MLflow.")],
    uri: Annotated[
        str | None, typer.Option(help="The MLflow store (default: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db).")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=1.0)] = 5.0,
    workers: Annotated[int, typer.Option(help="Show at most N workers.", metavar="N", min=1)] = 30,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run's workers are doing, those first that need a look: failed, slow, or waiting for data."""
    live = LiveRun(tracking_uri(uri), run)
    while True:
        status, metrics = live.status()
        now = live.artifact(WORKERS_PATH)
        if as_json:
            print_json({"run": run, "status": status, "metrics": metrics, "workers": now})
            return
        if sys.stdout.isatty() and not once:
            print(_CLEAR, end="")
        _show(run, status, metrics, now, workers)
        if once or status != "RUNNING":
            return
        time.sleep(interval)


def _show(run: str, status: str, metrics: Mapping[str, float], now: Mapping[str, Any] | None, limit: int) -> None:
    if now is None:
        print(f"{run}  {status}  nothing is known of its workers yet")
        return
    age_s = max(0.0, time.time() - now["time"])
    # One that waits in one step for long shows nothing new meanwhile.
    late = f"  (as of {age_s:.0f} s ago)" if status != "RUNNING" or age_s > 3 * now["interval_s"] else ""
    loss = f"  loss {metrics['train/loss']:.4g}" if "train/loss" in metrics else ""
    print(f"{run}  {status}  step {now['step']:.0f}{loss}{late}")
    speed = f"{now['tasks_per_s']:.4g} tasks/s  {now['seconds_per_step']:.3g} s a step"
    counts = "  ".join(f"{name} {now[name]:.0f}" for name in ("restarts", "retries", "copies"))
    print(f"{now['workers']:.0f} workers  {speed}  {counts}")
    for node, count in sorted(now["failures_by_node"].items(), key=lambda item: -item[1]):
        print(f"failed {count} times: {node or 'no node yet'}")
    rows = sorted(now["workers_now"], key=_needs_a_look)
    led = any(worker["leader"] is not None for worker in rows)
    print_table([_row(worker, led) for worker in rows[:limit]])
    if len(rows) > limit:
        print(f"{len(rows) - limit} more workers (--workers N)")


def _needs_a_look(worker: Mapping[str, Any]) -> tuple[bool, float, float, int]:
    """Sorts those first that do not compute, then by failures and slowness."""
    return worker["state"] == "ready", -worker["failures"], -round(worker["times_typical"], 1), worker["index"]


def _row(worker: Mapping[str, Any], led: bool) -> dict[str, Any]:
    seconds = worker["seconds_per_shard"]
    remarks = [
        *([f"slow: {worker['times_typical']:.1f} times the typical shard"] if worker["times_typical"] > SLOW else []),
        *([f"failed {worker['failures']:.0f} times"] if worker["failures"] else []),
    ]
    return {
        "worker": worker["index"],
        **({"leader": worker["leader"]} if led else {}),
        "node": worker["node"],
        "state": worker["state"],
        "shards": int(worker["shards"]),
        "s/shard": None if seconds is None else f"{seconds:.3g}",
        "busy": f"{worker['busy_share']:.0%}",
        "data": f"{worker['data_wait_share']:.0%}",
        "remark": "; ".join(remarks),
    }
