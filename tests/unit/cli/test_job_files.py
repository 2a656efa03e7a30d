"""The jobs of the repository, and the helper by which a job is run as a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distmeta import cli
from distmeta.cli.submit import _command
from distmeta.config.load import load_config

ROOT = Path(__file__).resolve().parents[3]
NAVIGATION = ("anil", "anil_trpo", "fomaml", "maml", "maml_ppo", "maml_trpo", "pretrained", "rl2")
JOBS = {
    "architecture": ["chosen", "darts"],
    "cifar_fs": ["maml"],
    "continual": ["anml", "oml", "oml_paper", "pretrain"],
    "feature_reuse": [
        "anil",
        "maml",
        "multiclass",
        "multitask",
        "multitask_heads",
        "nil_training",
        "random_features",
    ],
    "inner_problem": ["equal_weights", "hyperparameters", "learned_loss", "reweight"],
    "intents": ["fomaml", "frozen", "lora_plain", "lora_protonet", "proto_maml", "reptile"],
    "label_words": ["few_shot", "meta_trained", "zero_shot"],
    "learned_optimizers": ["conv", "logistic", "mlp", "mlp_backprop", "quadratics"],
    "omniglot": [
        "anil",
        "boil",
        "cavia",
        "fomaml",
        "imaml",
        "imaml_hf",
        "in_context",
        "knn",
        "lstm",
        "maml",
        "maml_pp",
        "matching",
        "meta_sgd",
        "neural_process",
        "nil",
        "pretrain",
        "proto_maml",
        "protonet",
        "r2d2",
        "reptile",
    ],
    "parameter_prediction": ["body", "film", "film_waves", "weight_generator"],
    "rl": [
        *(f"cheetah_dir_{method}" for method in ("anil", "maml", "pretrained")),
        *(f"cheetah_vel_{method}" for method in ("anil", "maml")),
        *(f"navigation_{method}" for method in NAVIGATION),
    ],
    "sinusoid": ["cavia", "in_context", "lstm", "maml", "neural_process", "pretrain", "r2d2"],
    "test_time": ["bn_adapt", "dann", "deep_coral", "spurious", "subclass", "tent", "ttt"],
    "transfer": [
        "auto_rgn",
        "fine_tuning",
        "from_scratch",
        "gradual",
        "joint",
        "l2sp",
        "linear_probe",
        "lp_ft",
        "merlin",
        "self_supervised",
        "signature_fine_tuning",
        "signature_joint",
        "signature_l2sp",
        "signature_merlin",
        "signature_target_only",
        "surgical",
        "target_only",
    ],
    "transfer_texts": ["fine_tuning", "frozen", "merlin_ft"],
}
METHOD = {
    "architecture_chosen": "darts",
    "inner_problem_equal_weights": "anil",
    "continual_oml_paper": "oml",
    "intents_frozen": "protonet",
    "transfer_texts_frozen": "merlin",
    "transfer_texts_merlin_ft": "merlin",
    "intents_lora_plain": "proto_maml",
    "intents_lora_protonet": "protonet",
    "label_words_few_shot": "label_words",
    "label_words_meta_trained": "label_words",
    "label_words_zero_shot": "label_words",
    "feature_reuse_anil": "nil",
    "feature_reuse_maml": "maml_nil",
    "feature_reuse_multitask_heads": "multitask",
    "feature_reuse_nil_training": "matching",
    "learned_optimizers_conv": "evolved_optimizer",
    "learned_optimizers_logistic": "evolved_optimizer",
    "learned_optimizers_mlp": "evolved_optimizer",
    "learned_optimizers_mlp_backprop": "learned_optimizer",
    "learned_optimizers_quadratics": "learned_optimizer",
    "parameter_prediction_body": "pretrain",
    "parameter_prediction_film_waves": "film",
    **{
        f"rl_{tasks}_{method}": f"{method.removesuffix('_trpo').removesuffix('_ppo')}_rl"
        for tasks in ("cheetah_dir", "cheetah_vel", "navigation")
        for method in NAVIGATION
    },
    "rl_navigation_rl2": "rl2",
    "test_time_spurious": "tent",
    "test_time_subclass": "tent",
    "transfer_from_scratch": "fine_tuning",
    "transfer_gradual": "fine_tuning",
    "transfer_self_supervised": "fine_tuning",
    **{f"transfer_signature_{method}": method for method in ("fine_tuning", "joint", "l2sp", "merlin", "target_only")},
}
"""Methods of functions that are not named for them."""


def script(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(file), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_file_is_checked_here_and_none_is_a_package() -> None:
    assert sorted(path.name for path in (ROOT / "jobs").glob("*.py")) == sorted([*(f"{n}.py" for n in JOBS), "demo.py"])


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in JOBS.items() for name in names])
def test_a_run_is_named_by_its_file_and_function(file: str, name: str) -> None:
    config = load_config(str(ROOT / "jobs" / f"{file}.py:{name}"))
    assert config.name == f"{file}_{name}"
    assert config.algorithm.method == METHOD.get(config.name, name)


def test_the_demo_has_one_function() -> None:
    assert load_config(str(ROOT / "jobs" / "demo.py")).name == "demo"


@pytest.mark.parametrize("file", JOBS)
def test_a_file_alone_lists_its_functions(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(ROOT / "jobs" / f"{file}.py")])
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(line.splitlines()) == 1
    assert line.strip().endswith(f"allowed: {', '.join(JOBS[file])}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["train", "job.py"]),
        (["maml"], ["train", "job.py:maml"]),
        (["maml", "--set", "seed=1"], ["train", "job.py:maml", "--set", "seed=1"]),
        (["--set", "seed=1"], ["train", "job.py", "--set", "seed=1"]),
    ],
)
def test_a_script_trains_the_function_that_is_named_first(
    arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["jobs/job.py", *arguments])
    monkeypatch.setattr(cli, "main", passed.append)
    cli.run_job("job.py")
    assert passed == [expected]


@pytest.mark.slow
def test_a_script_with_a_name(tmp_path: Path) -> None:
    done = script(ROOT / "jobs" / "omniglot.py", "maml", "--set", "train.steps=10", "--dry-run")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert (config["name"], config["train"]["steps"]) == ("omniglot_maml", 10)


@pytest.mark.thorough
def test_a_script_without_a_name_says_the_same_as_the_command() -> None:
    job = ROOT / "jobs" / "omniglot.py"
    done = script(job)
    command = subprocess.run(
        [sys.executable, "-m", "distmeta", "train", str(job)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (2, f"reading {job}\n")
    assert done.stderr == command.stderr
    assert done.stderr.count("\n") == 1


def test_loading_a_job_imports_no_command() -> None:
    code = (
        "import sys; from distmeta.config.load import load_config; load_config('jobs/omniglot.py:maml'); "
        "assert not {'typer', 'distmeta.cli.app', 'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


def test_the_cluster_trains_the_same_function() -> None:
    command = _command("jobs/omniglot.py", "maml", ["train.steps=3"])
    assert command == "python -m distmeta train jobs/omniglot.py:maml --auto-resume --set train.steps=3"
    assert _command("a b.py", None, []) == "python -m distmeta train 'a b.py' --auto-resume"
