"""One of the runs of `train_seeds`. Its result is kept beside its checkpoints, so that it is not run again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from distmeta.checkpoint.reading import run_folder
from distmeta.checkpoint.storage import Folder, StoreError, convert_errors
from distmeta.config import RunConfig
from distmeta.core.errors import UserError
from distmeta.tracking.flatten import masked_config
from distmeta.training.run import train

_RESULT = "result.json"
_ELSEWHERE = ("runtime", "tracking", "checkpoint")
"""Sections in which a finished run may differ from the one asked for."""


@dataclass(frozen=True)
class SeedRun:
    """A run, and how to start it.

    Attributes:
        config: The run.
        resume: Continue from its newest checkpoint if it has one.
        anew: Start again although it has checkpoints, which are moved.
        quiet: Print progress to standard error instead of standard output.
        tags: Further tags of the run in MLflow.
    """

    config: RunConfig
    resume: bool
    anew: bool
    quiet: bool
    tags: Mapping[str, str]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_json` was made of."""
        return cls(**{**fields, "config": RunConfig.model_validate(fields["config"])})

    def to_json(self) -> dict[str, Any]:
        """One JSON object, with the secrets of the configuration."""
        return {**vars(self), "config": self.config.model_dump(mode="json"), "tags": dict(self.tags)}

    def train(self) -> Mapping[str, Any]:
        """Train to the end; the result as `TrainResult.to_json` gives it.

        Raises:
            UserError: As `distmeta.train`.
            WorkerError: As `distmeta.train`.
        """
        resume: bool | Literal["auto"] = "auto" if self.resume else False
        trained = train(self.config, resume=resume, anew=self.anew, quiet=self.quiet, tags=self.tags)
        result: dict[str, Any] = json.loads(json.dumps(trained.to_json()))  # as it will be read
        write_json(_folder(self.config), _RESULT, {"config": _comparable(self.config), "result": result})
        return result

    def finished(self) -> Mapping[str, Any] | None:
        """The result of the run if it is to be resumed and has ended; None if not, or if it was another run."""
        content = read_json(_folder(self.config), _RESULT) if self.resume else {}
        return content["result"] if content.get("config") == _comparable(self.config) and "result" in content else None


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object beside the checkpoints; empty if there is none, or it was not written to its end."""
    try:
        content = json.loads(folder.read(name))
    except (UserError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(folder: Folder, name: str, content: Mapping[str, Any]) -> None:
    """Write a JSON object beside the checkpoints, unless the store is unavailable."""
    with contextlib.suppress(StoreError), convert_errors("the result cannot be written", folder.url):
        folder.fs.makedirs(folder.path, exist_ok=True)
        folder.fs.pipe_file((folder / name).path, json.dumps(content).encode())


def _comparable(config: RunConfig) -> dict[str, Any]:
    fields = masked_config(config.model_dump(mode="json"))
    return {name: value for name, value in fields.items() if name not in _ELSEWHERE}


def _folder(config: RunConfig) -> Folder:
    return run_folder(config.checkpoint.path, config.name)
