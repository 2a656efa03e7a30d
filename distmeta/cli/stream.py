"""`distmeta stream`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from distmeta.cli.output import (
    WHICH,
    JsonOption,
    SetOption,
    TrustOption,
    choose,
    people_read,
    print_json,
    print_table,
    which_option,
    write_result,
)
from distmeta.config.bounds import MAX_SEED
from distmeta.core.collector import resume as resume_collector
from distmeta.core.errors import UserError
from distmeta.core.signals import held

_SPLITS, _OPTIMIZERS = ("train", "val", "test"), ("adam", "sgd")
Number = TypeVar("Number", int, float)

EXAMPLES = """\b
Examples:
  distmeta stream CKPT --classes 10,100,600 --out stream
  distmeta stream CKPT OTHER --orders 10
  distmeta stream CKPT --optimizer sgd --rates 0.1,0.03,0.01
"""


def stream(
    paths: Annotated[list[str], typer.Argument(metavar="CKPT...", help="Checkpoints, or folders of runs.")],
    classes: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of unseen classes to learn, each in streams of its own.")
    ] = "10,50,100",
    shots: Annotated[int, typer.Option(min=2, max=1_000_000, metavar="N", help="Training examples of a class.")] = 15,
    queries: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="Test examples of a class.")] = 5,
    orders: Annotated[
        int, typer.Option(min=2, max=1000, metavar="N", help="Streams of each length: draws of classes and examples.")
    ] = 5,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(_OPTIMIZERS)}.")] = "adam",
    rates: Annotated[
        str, typer.Option(metavar="R,R,...", help="Learning rates to choose from (default: eight, by optimizer).")
    ] = "",
    passes: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Times that the oracle sees each example.")
    ] = 3,
    split: Annotated[str, typer.Option(metavar="NAME", help=f"Classes to learn: {', '.join(_SPLITS)}.")] = "test",
    untrained: Annotated[
        bool, typer.Option("--untrained/--no-untrained", help="Compare the network before training as well.")
    ] = True,
    which: Annotated[str, typer.Option(metavar="NAME", help=f"Checkpoint of a run: {', '.join(WHICH)}.")] = "latest",
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Seed of the streams (default: the run's).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write stream.json and two PNGs into this folder.")
    ] = None,
    overrides: SetOption = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Learn unseen classes one example at a time, one class after the other (continual learning).

    A new linear head is trained on the features of each checkpoint, which do not move. Beside it stand the oracle,
    which sees the same examples in random order several times, and the features of the network before it was trained.
    Learning rates are chosen by training examples that are held out. Reports the accuracy on training and test examples
    of all classes, means over orders with 95% intervals.
    """
    choose(split, _SPLITS, "--split")
    choose(optimizer, _OPTIMIZERS, "--optimizer")
    counts, chosen_rates = _numbers(classes, int, "--classes"), _numbers(rates, float, "--rates") if rates else []
    if not as_json:
        print(f"loading torch and {', '.join(paths)}", flush=True)  # the first sign of life
    choices = [which_option(which, path) for path in paths]
    with held():
        from distmeta.training.stream import Protocol, learn_streams

    resume_collector()
    with people_read(as_json):
        result = learn_streams(
            paths,
            Protocol(counts, shots, queries, orders, optimizer, chosen_rates, passes, split, seed, untrained),
            which=choices[0],
            overrides=overrides or [],
            trust_code=trust_code,
        )
        written = [] if out is None else write_result(out, "stream.json", result)
    if as_json:
        print_json({**result.to_json(), **({"out": [str(path) for path in written]} if written else {})})
        return
    print_table(result.rows(), title=f"{orders} streams of classes of '{split}', {shots} examples each")
    for path in written:
        print(path)


def _numbers(text: str, kind: Callable[[str], Number], option: str) -> list[Number]:
    """The numbers of a list such as `10,100`."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{text!r} is no list of numbers", where=option, allowed="numbers with commas between"
        ) from None
