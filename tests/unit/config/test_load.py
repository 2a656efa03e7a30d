from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distmeta.config import (
    AlgorithmConfig,
    DisplacementConfig,
    EvaluateConfig,
    GlyphTasks,
    GradientConfig,
    MlpConfig,
    OuterConfig,
    Phase,
    PrototypeConfig,
    RunConfig,
    SinusoidTasks,
    Term,
    TextTasks,
    TrackingConfig,
)
from distmeta.config.load import load_config, to_yaml
from distmeta.core.errors import UserError

JOB = """
from dataclasses import dataclass
from distmeta.config import MlpConfig, RunConfig, SinusoidTasks

@dataclass
class Width:
    value: "int" = 8

def config() -> RunConfig:
    return RunConfig(name="job", tasks=SinusoidTasks(), model=MlpConfig(hidden=(Width().value,)))
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    return write(tmp_path / "plain.yaml", "name: x\n")


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(name="1e-3"),
        RunConfig(name="2024", tasks=SinusoidTasks(), model=MlpConfig(hidden=(1, 2))),
        RunConfig(name="no", tasks=GlyphTasks(size=20), algorithm=AlgorithmConfig(learner=PrototypeConfig())),
        RunConfig(
            name="reptile",
            algorithm=AlgorithmConfig(
                learner=GradientConfig(phases=(Phase(lr=1e-7, rates={"body": 1e-9}), Phase(groups=("head",)))),
                estimator=DisplacementConfig(),
                terms=(Term(), Term(role="source", head="source", weight=1e-5, at="meta")),
                evaluate=EvaluateConfig(learner=GradientConfig(phases=(Phase(steps=50),))),
            ),
            outer=OuterConfig(optimizer="SGD", lr=1e-5, options={"betas": (0.0, 0.5), "nesterov": True, "eps": 1e-12}),
            tracking=TrackingConfig(uri="http://host:5000"),
        ),
    ],
    ids=lambda config: config.name,
)
def test_yaml_round_trip(tmp_path: Path, config: RunConfig) -> None:
    again = load_config(write(tmp_path / "a.yaml", to_yaml(config)))
    assert again == config
    assert to_yaml(again) == to_yaml(config)


def test_json_round_trip(tmp_path: Path) -> None:
    config = RunConfig(name="x", outer=OuterConfig(lr=1e-9))
    assert load_config(write(tmp_path / "a.json", config.model_dump_json())) == config


def test_yaml_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "a.yaml", "name: x\nouter: {lr: 3e-3, options: {eps: 1e-8}}\n"))
    assert config.outer.lr == 0.003
    assert config.outer.options == {"eps": 1e-8}


def test_job(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "job.py", JOB), ["seed=3"])
    assert (config.name, config.seed, config.model) == ("job", 3, MlpConfig(hidden=(8,)))
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


def test_overrides_of_fields_positions_and_free_mappings(plain: str) -> None:
    config = load_config(
        plain,
        [
            "outer.lr=3e-3",
            "outer.options.betas=[0.9, 0.99]",
            "algorithm.learner.phases.0.lr=0.1",
            "algorithm.evaluate.learner={kind: gradient, phases: [{steps: 50}]}",
            "algorithm.evaluate.learner.phases.0.lr=0.2",
            "algorithm.terms=[{role: query}, {role: source, head: source}]",
            "algorithm.terms.1.at=meta",
            "name=2024",
            "tracking.uri=sqlite:///a b.db",
            "train.budget_s=null",
            "outer.lr=4e-3",
        ],
    )
    assert (config.name, config.outer.lr, config.tracking.uri) == ("2024", 0.004, "sqlite:///a b.db")
    assert config.outer.options == {"betas": (0.9, 0.99)}
    assert config.algorithm.learner == GradientConfig(phases=(Phase(lr=0.1),))
    assert config.algorithm.evaluate.learner == GradientConfig(phases=(Phase(steps=50, lr=0.2),))
    assert config.algorithm.terms == (Term(), Term(role="source", head="source", at="meta"))


def test_an_override_of_the_class_comes_first_and_keeps_what_both_know(plain: str) -> None:
    config = load_config(plain, ["tasks.size=20", "tasks.way=7", "tasks.source=glyphs"])
    assert config.tasks == GlyphTasks(way=7, size=20)
    config = load_config(plain, ["tasks.source=sinusoid", "model.kind=mlp", "model.hidden=[3]"])
    assert config.tasks == SinusoidTasks(shots=1, queries=15, eval_queries=15)
    assert config.model == MlpConfig(hidden=(3,))


def test_an_override_may_choose_a_class_that_has_fields_without_a_default(plain: str) -> None:
    overrides = ["tasks.split_set=01", "tasks.source=texts", "model.kind=transformer", "model.pretrained=minilm"]
    config = load_config(plain, [*overrides, "tasks.store=banking77"])
    assert config.tasks == TextTasks(store="banking77", split_set="01")
    # The store of images is a store too, whose name is kept.
    assert load_config(plain, overrides).tasks == TextTasks(store="omniglot", split_set="01")
    with pytest.raises(UserError, match=r"tasks.table: a value is required"):
        load_config(plain, ["tasks.source=table", "model.kind=mlp"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("outer.lr", "--set: 'outer.lr' is not an override; allowed: field=value"),
        ("=3", "--set: '=3' is not an override"),
        ("outer..lr=3", "--set: 'outer..lr=3' is not an override"),
        ("outr.lr=1", "--set outr.lr: unknown field 'outr'; allowed: did you mean 'outer'?"),
        ("outer.rl=1", "--set outer.rl: unknown field 'rl'; allowed: did you mean 'lr'? (average, clip_norm"),
        ("outer.lr.x=1", "--set outer.lr.x: outer.lr is 0.001 and holds no field 'x'; allowed: outer.lr=value"),
        ("outer.lr=[1", "--set: not valid YAML: expected ',' or ']'"),
        ("outer.lr=fast", "--set: outer.lr: 'fast' is not valid; allowed: a number"),
        ("tasks.source=glyph", "--set: tasks: unknown source 'glyph'; allowed: did you mean 'glyphs'?"),
        ("algorithm.learner.phases.1.lr=1", "--set algorithm.learner.phases.1.lr: algorithm.learner.phases has no '1'"),
        ("algorithm.terms.1.at=meta", "--set algorithm.terms.1.at: algorithm.terms has no '1'"),
        ("algorithm.evaluate.learner.lr=1", "--set algorithm.evaluate.learner.lr: algorithm.evaluate.learner"),
    ],
)
def test_bad_overrides(plain: str, override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(plain, [override])
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "", "is empty; allowed: a mapping of fields"),
        ("a.yaml", "- 1\n", "holds a list, not fields"),
        ("a.yaml", "name: a\nname: b\n", "the field 'name' is given twice in the mapping that starts on line 1"),
        ("a.yaml", "name: [a\n", "not valid YAML"),
        (
            "a.yaml",
            "name: !!python/object/apply:os.getcwd []\n",
            "not valid YAML: the tag '!!python/object/apply:os.getcwd' (line 1)",
        ),
        ("a.yaml", "name: x\nseed: &a [*a]\n", "an alias refers to a value that contains it"),
        ("a.json", '{"name": "a", "name": "b"}', "the field 'name' is given twice"),
        ("a.json", '{"name": ', "not valid JSON"),
        ("a.json", '{"name": "a", "outer": {"lr": NaN}}', "outer.lr: nan is not valid; allowed: a finite number"),
        ("a.py", "x = 1\ndef config(:\n", "a.py, line 2: SyntaxError"),
        ("a.py", "import no_such_module\n", "a.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("a.py", "x = 1\n", "a.py: defines no function config(); allowed: def config() -> RunConfig"),
        ("a.py", "def config():\n    return 3\n", "a.py: config() returned int; allowed: def config() -> RunConfig"),
        ("a.py", "def config():\n    y = 1\n    return 1 / 0\n", "a.py, line 3: ZeroDivisionError: division by zero"),
        ("a.py", "import sys\nsys.exit(3)\n", "a.py, line 2: SystemExit: 3"),
        (
            "a.py",
            "from distmeta.config import *\ndef config():\n    return RunConfig(name='x', outer=OuterConfig(lr=0))\n",
            "a.py, line 3: OuterConfig.lr: 0 is not valid; allowed: greater than 0",
        ),
        ("a.toml", "name = 'x'\n", "a configuration of kind '.toml'; allowed: .py, .yaml, .yml, .json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path / name, text))
    line = str(caught.value)
    assert expected in line
    assert str(tmp_path / name) in line
    assert "\n" not in line


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "sinusoid.py", JOB)
    with pytest.raises(UserError, match=r"no such file; allowed: did you mean 'sinusoid.py'\?"):
        load_config(str(tmp_path / "sinusoi.py"))


def test_a_folder_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_config(str(tmp_path))
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(str(tmp_path / "a.yaml"))


def test_loading_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from distmeta.config.load import load_config; "
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
