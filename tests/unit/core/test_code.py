"""Users' own code: found, hashed, loaded once, and refused in one line."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from distmeta.config import Conv4Config, GlyphTasks, MlpConfig, PythonModel, RunConfig, SinusoidTasks
from distmeta.config.load import load_config, to_yaml
from distmeta.config.python import own_code, pinned, require_trust
from distmeta.core import code
from distmeta.core.errors import UserError
from distmeta.methods import maml
from distmeta.program.program import MetaProgram, MetaRecipe

NETS = """
from torch import nn
loads = []

def make_net(input_shape, num_outputs, width=4):
    loads.append(width)
    return nn.Sequential(nn.Linear(input_shape[0], width), nn.Tanh(), nn.Linear(width, num_outputs))

def raises(input_shape, num_outputs):
    raise RuntimeError("no weights")

def number(input_shape, num_outputs):
    return 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def waves(model: object) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "own", "tasks": SinusoidTasks(), "model": model, "algorithm": maml(lr=0.01)}
    )


def test_a_target_in_yaml_is_a_network(nets: Path) -> None:
    config = pinned(waves({"kind": "python", "target": "nets.py:make_net", "options": {"width": 7}}))
    assert config.model.sha256 == hashlib.sha256(NETS.encode()).hexdigest()
    program = MetaProgram(config)
    assert program.algorithm.learner.init(0)["0.weight"].shape == (7, 1)
    assert [path for path, _ in own_code(config)] == ["model"]
    program.close()


def test_a_function_in_a_job_file_is_its_file_and_name(nets: Path) -> None:
    job = nets.with_name("job.py")
    job.write_text(
        NETS
        + """
import functools
from distmeta.config import RunConfig, SinusoidTasks
from distmeta.methods import maml

def config() -> RunConfig:
    model = functools.partial(make_net, width=5)
    return RunConfig(name="own", tasks=SinusoidTasks(), model=model, algorithm=maml(lr=0.01))
"""
    )
    config = load_config("job.py")
    assert config.model == PythonModel(target="job.py:make_net", options={"width": 5})
    again = nets.with_name("again.yaml")
    again.write_text(to_yaml(config))
    assert load_config("again.yaml") == config
    assert load_config("job.py", ["model.options.width=9"]).model.options == {"width": 9}


def test_a_job_may_choose_between_networks(nets: Path) -> None:
    assert waves(MlpConfig()).model.kind == "mlp"
    with pytest.raises(ValueError, match="does not match any of the expected tags"):
        waves({"kind": "nets"})


def local() -> nn.Module:
    return nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda shape, outputs: nn.Linear(1, 1), "is not defined at the top level of a file"),
        (functools.partial(local, 3), "a partial with positional arguments"),
    ],
)
def test_what_workers_could_not_load_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        waves(value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nets.py:make_nets", r"model.*nets.py defines no 'make_nets'; allowed: .*make_net"),
        ("other.py:make_net", "there is no file other.py"),
        ("nets.py:raises", "nets.py:raises raises RuntimeError: no weights"),
        ("nets.py:number", "nets.py:number made int; allowed: a Module"),
    ],
)
def test_a_target_that_makes_no_network_is_refused(nets: Path, target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MetaProgram(waves({"kind": "python", "target": target}))


@pytest.mark.parametrize("target", ["nets.make_net", "nets.py", "nets.py:", "nets.txt:make_net", "nets.py:a.b"])
def test_a_target_has_a_file_and_a_name(target: str) -> None:
    with pytest.raises(ValueError, match=r"is not FILE\.py:NAME"):
        waves({"kind": "python", "target": target})


def test_a_worker_with_another_file_refuses_to_start(nets: Path) -> None:
    recipe = MetaRecipe.of(pinned(waves({"kind": "python", "target": "nets.py:make_net"})))
    recipe.build().close()
    nets.write_text(NETS + "\n# edited\n")
    with pytest.raises(UserError, match="is another file than the one that the run started with"):
        recipe.build()


def test_a_worker_searches_the_folder_of_the_driver(
    nets: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = MetaRecipe.of(pinned(waves({"kind": "python", "target": "nets.py:make_net"})))
    monkeypatch.setattr(code, "search_path", [])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    recipe.build().close()


def test_a_file_is_run_once(nets: Path) -> None:
    first = code.load_target("nets.py:loads", None, "model")
    assert code.load_target("nets.py:loads", None, "model") is first


def test_the_code_of_a_checkpoint_is_run_on_request_alone(nets: Path) -> None:
    config = pinned(waves({"kind": "python", "target": "nets.py:make_net"}))
    with pytest.raises(UserError, match=r"model is code: nets.py:make_net \(sha256 [0-9a-f]{64}\); allowed: --trust"):
        require_trust(config, "runs/own", trusted=False)
    require_trust(config, "runs/own", trusted=True)
    plain = RunConfig(name="plain", tasks=GlyphTasks(), model=Conv4Config(), algorithm=maml())
    require_trust(plain, "runs/plain", trusted=False)
    assert pinned(plain) == plain


def test_an_objective_a_learner_an_estimator_and_tasks_of_ones_own(nets: Path) -> None:
    nets.write_text(
        """
import torch
from distmeta.core.types import Batch
from distmeta.methods.estimators import Estimator
from distmeta.methods.estimators.displacement import Displacement
from distmeta.methods.learners import Learner
from distmeta.tasks import TaskSource

def absolute(forward, batch, power=1.0):
    return (forward(batch.inputs) - batch.targets).abs().pow(power).mean(), {}

class Mean(Learner):
    def start(self, net, meta, task):
        return {"mean": task.support.targets.mean(0)}

    def predict(self, net, meta, fast, task, inputs, *, head="head"):
        return fast["mean"] + net(meta, inputs)

class Reverse(Displacement):
    pass

class Lines(TaskSource):
    input_shape, num_outputs, train_outputs, objective = (1,), 1, {"support": 1, "query": 1}, "mse"

    def __init__(self, seed, dtype, slope=1.0):
        self.slope, self.dtype = slope, dtype

    def batches(self, split, seeds, roles):
        x = torch.linspace(0, 1, 4, dtype=self.dtype).expand(len(seeds), 4)[..., None]
        return {role: Batch(x, self.slope * x) for role in roles}
"""
    )
    config = RunConfig.model_validate(
        {
            "name": "own",
            "tasks": {"source": "python", "target": "nets.py:Lines", "options": {"slope": 3.0}},
            "model": {"kind": "mlp", "hidden": [4]},
            "algorithm": {
                "learner": {"kind": "python", "target": "nets.py:Mean"},
                "terms": [
                    {"objective": {"kind": "python", "target": "nets.py:absolute", "options": {"power": 2.0}}},
                    {"weight": 0.5},
                ],
            },
        }
    )
    assert [path for path, _ in own_code(config)] == ["tasks", "algorithm.learner", "algorithm.terms.0.objective"]
    program = MetaProgram(pinned(config))
    episodes = program.episodes(program.source.specs("train", 0, 2))
    assert torch.equal(episodes.query.targets[0], 3 * episodes.query.inputs[0])
    meta = program.algorithm.learner.init(0)
    assert program.algorithm.terms[0].objective(lambda x: x * 0, episodes["query"].map(lambda t: t[0]))[0] > 0
    assert set(meta) == {"block1.weight", "block1.bias", "head.weight", "head.bias"}
    program.close()
