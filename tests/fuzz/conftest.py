"""Profiles of the fuzzer: `default`, the same few inputs every time, and `long`, for `make fuzz`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from distmeta.cli import app
from distmeta.config import RunConfig
from distmeta.config.load import change, load_config, to_yaml
from distmeta.data.store import write_store
from distmeta.training import train

from .harness import Place
from .journal import Journal, journal

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("default", max_examples=8, derandomize=True, **_COMMON)
# A failing input is kept as it is: shrinking would take the time of further inputs. There are few examples of each test
# in a round, so that a short session reaches all of them. Profiles inherit from `default`, where seeds are ignored.
settings.register_profile(
    "long", max_examples=50, derandomize=False, phases=[Phase.explicit, Phase.generate], **_COMMON
)
settings.load_profile("default")

Places = Callable[[], AbstractContextManager[Place]]


@pytest.fixture(scope="session")
def fuzz_journal() -> Journal | None:
    return journal()


@pytest.fixture
def places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fuzz_journal: Journal | None
) -> Places:
    """A context manager: an empty place for one input, removed at its end."""
    base = tmp_path_factory.mktemp("places")

    @contextmanager
    def place() -> Iterator[Place]:
        root = Path(tempfile.mkdtemp(dir=base))
        try:
            yield Place(root, request.node.name, fuzz_journal)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    return place


TINY = """\
name: waves
tasks: {source: sinusoid, shots: 2, queries: 2, eval_queries: 2}
model: {kind: mlp, hidden: [3]}
engine: {strategy: loop}
algorithm: {learner: {kind: gradient, phases: [{lr: 0.01}]}}
outer: {average: 0.5}
train: {steps: 2, tasks_per_step: 2, log_every: 1}
runtime: {executor: local}
evaluation: {final_tasks: 0}
tracking: {kind: none}
checkpoint: {every: 1, keep_last: 2}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The configuration of a run of two steps that takes milliseconds."""
    file = tmp_path_factory.mktemp("tiny") / "waves.yaml"
    file.write_text(TINY)
    return load_config(str(file))


@pytest.fixture(scope="session")
def trained(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy: `runs/waves` with two checkpoints, and `waves.yaml`, the job to go on with."""
    folder = tmp_path_factory.mktemp("trained")
    train(change(tiny, [f"checkpoint.path={folder / 'runs'}"]), quiet=True)
    (folder / "waves.yaml").write_text(to_yaml(change(tiny, ["train.steps=3"])))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with `letters`, a learner of two classes of drawn characters."""
    folder = tmp_path_factory.mktemp("pictures")
    file = folder / "letters.yaml"
    tasks = "tasks: {source: glyphs, size: 8, way: 2, queries: 1, eval_queries: 1}"
    file.write_text(TINY.replace("waves", "letters").replace(TINY.splitlines()[1], tasks))
    train(load_config(str(file), [f"checkpoint.path={folder / 'runs'}", "train.steps=1"]), quiet=True)
    return folder / "runs"


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with `questions`, a learner of texts by words."""
    folder = tmp_path_factory.mktemp("sentences")
    rows = [f"{place} {index}" for place in ("room", "atlas", "card") for index in range(2)]
    splits = {"all": {"train": [0, 1, 2], "val": [], "test": []}}
    write_store(folder / "store", rows, class_names=["a", "b", "c"], class_counts=[2] * 3, splits=splits)
    sizes = "vocab_size: 32, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8"
    file = folder / "questions.yaml"
    file.write_text(
        TINY.replace("waves", "questions")
        .replace(
            TINY.splitlines()[1],
            f"tasks: {{source: texts, store: {folder / 'store'}, tokenizer: words, way: 2, queries: 1, buckets: [8]}}",
        )
        .replace(
            "model: {kind: mlp, hidden: [3]}",
            f"model: {{kind: transformer, architecture: {{model_type: bert, max_position_embeddings: 16, {sizes}}}}}",
        )
        .replace("learner: {kind: gradient, phases: [{lr: 0.01}]}", "learner: {kind: prototype}")
    )
    train(load_config(str(file), [f"checkpoint.path={folder / 'runs'}", "train.steps=1"]), quiet=True)
    return folder / "runs"


@pytest.fixture(scope="session", autouse=True)
def _loaded(trained: Path) -> None:
    """Load what commands import, so that no input is charged for it."""
    import distmeta.adapt.load
    import distmeta.data.inspect
    import distmeta.training.evaluate  # noqa: F401

    assert app.run(["checkpoint", "list", str(trained / "runs"), "--json"]) == 0
