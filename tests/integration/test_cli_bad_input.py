"""Bad input of every kind: one clear line on stderr, exit code 2, nothing made and nothing started."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distmeta.cli import main
from distmeta.data.catalog import import_store
from distmeta.data.store import write_store

from .bad_input import Arguments, Row, check, files_below, judge, write

# --- inputs ---


def yaml(text: str) -> Arguments:
    """`distmeta train` with these fields."""
    return lambda folder: ["train", str(write(folder / "run.yaml", f"name: run\n{text}\n"))]


def whole(name: str, content: str) -> Arguments:
    """`distmeta train` with this file."""
    return lambda folder: ["train", str(write(folder / name, content))]


def change(*overrides: str) -> Arguments:
    """`distmeta train` with a good file and these overrides."""
    sets = [part for override in overrides for part in ("--set", override)]
    return lambda folder: [*yaml("")(folder), *sets]


def submit(*options: str) -> Arguments:
    """`distmeta submit` of a good file from the current folder."""

    def make(folder: Path) -> list[str]:
        (folder / "w").mkdir()
        return ["submit", *yaml("")(folder)[1:], *options]

    return make


def tune(name: str, content: str | None = None) -> Arguments:
    """`distmeta tune` of a good file with this search space."""

    def make(folder: Path) -> list[str]:
        space = folder / name if content is None else write(folder / name, content)
        return ["tune", *yaml("")(folder)[1:], "--space", str(space)]

    return make


def literal(*arguments: str) -> Arguments:
    return lambda folder: list(arguments)


HEAD = ("--address", "http://127.0.0.1:9")
SINUSOID = ("tasks.source=sinusoid", "model.kind=mlp")
GLYPHS = ("tasks.source=glyphs", "runtime.executor=local")


def pictures(folder: Path, classes: int = 2, each: int = 3) -> Path:
    """A folder of classes of small noisy images."""
    rng = np.random.default_rng(0)
    for name in (f"class{index}" for index in range(classes)):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{index}.png")
    return folder


def store(folder: Path, *, classes: int = 6, each: int = 3) -> str:
    """An imported store of 8x8 images; half of its classes are for training."""
    return str(import_store("images", pictures(folder / "pictures", classes, each)).path)


def with_store(*overrides: str) -> Arguments:
    return lambda folder: change(f"tasks.store={store(folder)}", *overrides)(folder)


def with_broken_picture(*arguments: str) -> Arguments:
    def make(folder: Path) -> list[str]:
        write(pictures(folder / "pictures") / "class1" / "1.png", b"not a PNG")
        return [*arguments, str(folder / "pictures")]

    return make


def omniglot_zip(member: str | None) -> Arguments:
    """Import of an Omniglot folder whose first zip is truncated, or holds a member of this name."""

    def make(folder: Path) -> list[str]:
        path = folder / "raw" / "images_background.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member or "images_background/A/character01/0001_01.png", b"x" * 1000)
        if member is None:
            path.write_bytes(path.read_bytes()[:500])
        return ["data", "import", "omniglot", str(path.parent)]

    return make


def table(content: str, *options: str) -> Arguments:
    return lambda folder: ["data", "import", "table", str(write(folder / "table.csv", content)), *options]


def other_manifest_version(folder: Path) -> list[str]:
    path = Path(store(folder)) / "manifest.json"
    write(path, json.dumps({**json.loads(path.read_text()), "version": 99}))
    return ["data", "inspect", str(path.parent)]


def run_of(folder: Path) -> Path:
    """The folder of a run of two steps (see `trained_runs`), in the current folder."""
    return folder / "runs" / "waves"


def checkpoint_with(damage: Callable[[Path], None], *command: str) -> Arguments:
    """A command on a damaged copy of a checkpoint."""

    def make(folder: Path) -> list[str]:
        damage(sorted(run_of(folder).glob("step-*"))[-1])
        return [*(command or ("checkpoint", "show")), str(run_of(folder))]

    return make


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "meta.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "meta.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def set_state(**values: object) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def resume(*overrides: str) -> Arguments:
    sets = [part for override in overrides for part in ("--set", override)]
    return lambda folder: ["train", str(write(folder / "waves.yaml", WAVES)), "--resume", *sets]


def adapt(
    *,
    run: str = "letters",
    support: int | None = 2,
    queries: int = 1,
    broken: bool = False,
    extra: tuple[str, ...] = (),
) -> Arguments:
    def make(folder: Path) -> list[str]:
        labelled, unsorted = folder / "labelled", folder / "unsorted"
        labelled.mkdir()
        if support:
            pictures(labelled, support)
        for index in range(queries):
            Image.new("L", (8, 8)).save(write(unsorted / f"{index}.png", b""))
        if broken:
            write(unsorted / "broken.png", b"nothing")
        return ["adapt", str(folder / "runs" / run), "--support", str(labelled), "--query", str(unsorted), *extra]

    return make


def parquet_of_numbers() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [1.5], "label": ["a"]}), buffer)
    return buffer.getvalue()


QUESTIONS = "text,label\nmay I renew it,loan\nhow much is it,fine\n"


def adapt_texts(
    support: str | bytes = QUESTIONS,
    query: str | bytes = "text\nrenew this\n",
    *extra: str,
    run: str = "questions",
    suffix: str = ".csv",
) -> Arguments:
    """`distmeta adapt` with these tables, and further arguments; the last ones win."""

    def make(folder: Path) -> list[str]:
        labelled = write(folder / f"labelled{suffix}", support)
        unsorted = write(folder / f"unsorted{suffix}", query)
        (folder / "labelled").mkdir()
        pictures(folder / "labelled")
        return ["adapt", str(folder / "runs" / run), "--support", str(labelled), "--query", str(unsorted), *extra]

    return make


WAVES = """
name: waves
tasks: {source: sinusoid, shots: 3, queries: 3, eval_queries: 3}
model: {kind: mlp, hidden: [4]}
runtime: {executor: local, shard_size: 2}
train: {steps: 2, tasks_per_step: 2}
evaluation: {final_tasks: 0}
tracking: {kind: none}
"""
LETTERS = """
name: letters
tasks: {source: glyphs, way: 2, size: 16, queries: 2, eval_queries: 2}
model: {kind: conv4, filters: 2}
runtime: {executor: local, shard_size: 1}
train: {steps: 1, tasks_per_step: 1}
evaluation: {final_tasks: 0}
tracking: {kind: none}
"""
QUESTIONS_RUN = """
name: questions
tasks: {source: texts, store: STORE, tokenizer: words, way: 2, queries: 1, eval_queries: 1, buckets: [8]}
model:
  kind: transformer
  architecture: {model_type: bert, vocab_size: 32, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,
    intermediate_size: 8, max_position_embeddings: 16}
algorithm: {learner: {kind: gradient}}
runtime: {executor: local, shard_size: 1}
train: {steps: 1, tasks_per_step: 1}
evaluation: {final_tasks: 0}
tracking: {kind: none}
"""
JOB = "from distmeta.config import *\ndef config():\n    return RunConfig(name='run', "

ROWS = [
    # configuration: names and values
    Row("unknown field", yaml("sed: 3"), ("run.yaml: sed: unknown field 'sed'", "did you mean 'seed'?")),
    Row("unknown nested field", yaml("outer: {learning_rate: 1}"), ("outer.learning_rate: unknown field", "lr")),
    Row(
        "unknown field in a union",
        yaml("tasks: {source: glyphs, sise: 3}"),
        ("tasks.sise: unknown field 'sise'", "did you mean 'size'?"),
    ),
    Row(
        "unknown field in a list",
        yaml("algorithm: {learner: {kind: gradient, phases: [{step: 3}]}}"),
        ("algorithm.learner.phases.0.step: unknown field 'step'", "did you mean 'steps'?"),
    ),
    Row("misspelt choice", yaml("engine: {strategy: vmpa}"), ("engine.strategy: unknown value 'vmpa'", "mean 'vmap'?")),
    Row("misspelt class", yaml("model: {kind: conv}"), ("model: unknown kind 'conv'", "did you mean 'conv4'?")),
    Row("no class", yaml("tasks: {way: 5}"), ("tasks: the field 'source' is missing", "images, glyphs, sinusoid")),
    Row("wrong type", yaml("seed: first"), ("seed: 'first' is not valid", "allowed: an integer")),
    Row("out of range", yaml("tasks: {source: glyphs, way: 1}"), ("tasks.way: 1 is not valid", "equal to 2")),
    Row("negative rate", yaml("outer: {lr: -0.1}"), ("outer.lr: -0.1 is not valid", "greater than 0")),
    Row("not a number", yaml("outer: {lr: .nan}"), ("outer.lr: nan is not valid", "a finite number")),
    Row("value for a section", yaml("train: 100"), ("train: 100 is not valid", "a mapping of fields")),
    Row("no phase", change("algorithm.learner.phases=[]"), ("algorithm.learner.phases: []", "1 or more elements")),
    Row("bad run name", whole("run.yaml", "name: a/b\n"), ("name: 'a/b' is not a run name", "letters, digits")),
    Row("no run name", whole("run.yaml", "seed: 1\n"), ("run.yaml: name: a value is required",)),
    # configuration: combinations
    Row("sinusoid on conv4", change("tasks.source=sinusoid"), ("model.kind 'conv4'", "sinusoid", "use 'mlp'")),
    Row(
        "prototypes of a sinusoid",
        change(*SINUSOID, "algorithm.learner.kind=prototype"),
        ("algorithm.learner.kind 'prototype' needs classes", "tasks.source 'sinusoid'"),
    ),
    Row(
        "neighbours' labels of a sinusoid",
        change(*SINUSOID, "algorithm.evaluate.learner={kind: neighbours}"),
        ("algorithm.evaluate.learner.kind 'neighbours' needs classes", "tasks.source 'sinusoid'"),
    ),
    Row(
        "a learned ridge head of another body",
        change(*GLYPHS, "algorithm.evaluate.learner={kind: ridge}"),
        ("algorithm.evaluate.learner: evaluation needs parameter 'ridge.log_lambda'", "ridge with learned false"),
    ),
    Row(
        "no neighbours",
        change(*GLYPHS, "algorithm.learner={kind: neighbours, neighbours: 0}"),
        ("algorithm.learner.neighbours: 0 is not valid", "greater than 0"),
    ),
    Row(
        "no regularisation",
        change(*GLYPHS, "algorithm.learner={kind: ridge, regularisation: 0}"),
        ("algorithm.learner.regularisation: 0 is not valid", "greater than 0"),
    ),
    Row(
        "more training ways",
        change("tasks.train_way=20"),
        ("tasks.train_way differs from tasks.way", "'prototype'"),
    ),
    Row(
        "joint with a meta head",
        change(*GLYPHS, "algorithm.terms=[{role: source, at: meta}]"),
        ("algorithm.learner: evaluation needs parameter 'head.weight'", "head 'fresh'"),
    ),
    Row(
        "two numbers of outputs of a head",
        change(*GLYPHS, "algorithm.terms=[{}, {role: source, at: meta}]"),
        ("algorithm.terms.1.head: role 'source' needs 256 outputs, but head 'head' has 5", "another head"),
    ),
    Row(
        "joint without adaptation in Reptile",
        change("algorithm.estimator.kind=displacement", "algorithm.terms=[{role: source, at: meta}]"),
        ("no adaptation for estimator.kind 'displacement'", "use 'backprop'"),
    ),
    Row("unknown role", change(*SINUSOID, "algorithm.terms.0.role=source"), ("no role 'source'", "support, query")),
    Row(
        "other steps of another learner",
        change("algorithm.evaluate.learner={kind: gradient}", "algorithm.evaluate.steps=3"),
        ("algorithm.evaluate: ", "steps and learner exclude each other"),
    ),
    Row(
        "learned rates in Reptile",
        change("algorithm.estimator.kind=displacement", "algorithm.learner.learned_lr=true"),
        ("inner steps alone (learner.learned_lr,", "get no signal from this estimator", "'backprop'"),
    ),
    Row(
        "a learned optimizer in Reptile",
        change("algorithm.estimator.kind=displacement", "algorithm.learner={kind: learned_optimizer}"),
        ("learned optimizers) get no signal from this estimator ('displacement')", "'evolution'"),
    ),
    Row(
        "a window that does not divide the steps",
        change("algorithm.learner={kind: learned_optimizer}", "algorithm.estimator={kind: evolution, window: 30}"),
        ("estimator.window 30 does not divide the 100 inner steps", "use a divisor"),
    ),
    Row(
        "a window without a loss",
        change("algorithm.learner={kind: learned_optimizer}", "algorithm.estimator={kind: evolution, window: 20}"),
        ("estimator.window scores what lies within a window", "terms at 'each'"),
    ),
    Row(
        "a window of first order",
        change("algorithm.estimator={kind: backprop, order: 1, window: 20}"),
        ("window 20 needs order 2", "or it must be null"),
    ),
    Row(
        "windows that are asynchronous",
        change(
            "algorithm.learner={kind: learned_optimizer}",
            "algorithm.estimator={kind: evolution, window: 20}",
            "algorithm.terms=[{at: each}]",
            "outer.staleness=1",
        ),
        ("estimator.window keeps a state from step to step", "outer.staleness"),
    ),
    Row("GPU shares on a CPU", change("runtime.gpus_per_worker=1"), ("runtime.gpus_per_worker", "device is 'cpu'")),
    Row("unknown optimizer", change(*SINUSOID, "outer.optimizer=Adm"), ("outer.optimizer", "'Adm'", "Adam")),
    Row("unknown optimizer option", change(*SINUSOID, "outer.options.beta=0.9"), ("outer.options", "beta", "betas")),
    Row(
        "unknown parameter group",
        change(*SINUSOID, "algorithm.learner.phases.0.groups=[hed]"),
        ("groups", "'hed'", "did you mean 'head'?"),
    ),
    Row(
        "unknown objective",
        change(*SINUSOID, "algorithm.learner.phases.0.objective=mes"),
        ("objective", "'mes'", "mse"),
    ),
    Row("unknown device", change(*SINUSOID, "runtime.device=gpu"), ("runtime.device", "'gpu'", "cuda")),
    # overrides
    Row("override without a value", change("outer.lr"), ("--set: 'outer.lr' is not an override", "field=value")),
    Row("override of nothing", change("outer.rate=1"), ("--set outer.rate: unknown field 'rate'", "lr")),
    Row("override below a value", change("seed.x=1"), ("seed is 0 and holds no field 'x'",)),
    Row("override past a list", change("algorithm.learner.phases.2.lr=1"), ("phases has no '2'", "0 to 0")),
    Row("override of a wrong type", change("train.steps=many"), ("--set: train.steps: 'many'", "an integer")),
    Row("override that is not YAML", change("outer.options={a"), ("--set: not valid YAML",)),
    # files
    Row("list in YAML", whole("run.yaml", "- name: a\n"), ("run.yaml: holds a list", "a mapping of fields")),
    Row("field twice", whole("run.yaml", "name: a\nname: b\n"), ("the field 'name' is given twice", "line 1")),
    Row("broken YAML", whole("run.yaml", "name: [a\n"), ("run.yaml: not valid YAML", "line 2")),
    Row("Python tag", whole("run.yaml", "name: !!python/object/apply:os.getcwd []\n"), ("not valid YAML", "python")),
    Row("broken JSON", whole("run.json", '{"name": "a"'), ("run.json: not valid JSON",)),
    Row("missing file", literal("train", "nowhere.yaml"), ("nowhere.yaml: no such file", ".yaml")),
    Row("folder", lambda folder: ["train", str(folder)], ("is a folder", "allowed: a file")),
    Row("unknown suffix", whole("run.toml", ""), ("run.toml: a configuration of kind '.toml'", ".py, .yaml")),
    Row("syntax error in a job", whole("job.py", "def config(:\n"), ("job.py, line 1: SyntaxError",)),
    Row("job without config()", whole("job.py", "x = 1\n"), ("job.py: defines no function config()", "RunConfig")),
    Row("job that raises", whole("job.py", "def config():\n    1 / 0\n"), ("job.py, line 2: ZeroDivisionError",)),
    Row("job with a bad value", whole("job.py", JOB + "seed=-1)\n"), ("job.py, line 3: seed: -1", "equal to 0")),
    Row("job of another type", whole("job.py", "config = dict\n"), ("job.py: config() returned dict", "RunConfig")),
    # data
    Row("missing source", literal("data", "import", "images", "nowhere"), ("nowhere: no such file or folder",)),
    Row("unknown importer", literal("data", "import", "image", "."), ("no importer 'image'", "mean 'images'?")),
    Row("truncated zip", omniglot_zip(None), ("images_background.zip: the zip is truncated or damaged",)),
    Row("zip with a way out", omniglot_zip("../../evil.png"), ("member '../../evil.png' points out of the zip",)),
    Row("zip with an absolute path", omniglot_zip("/tmp/evil.png"), ("member '/tmp/evil.png' points out of the zip",)),
    Row(
        "undecodable image",
        with_broken_picture("data", "import", "images"),
        ("class1/1.png: the image cannot be decoded",),
    ),
    Row(
        "class with too few examples",
        lambda folder: ["data", "import", "images", str(pictures(folder / "pictures")), "--min-examples", "5"],
        ("class0", "3", "5"),
    ),
    Row("missing column", table("text,kind\na,b\n"), ("table.csv", "no column 'label'", "kind, text")),
    Row(
        "image path out of the table's folder",
        table("path,label\n../x.png,a\n", "--image-column", "path"),
        ("'../x.png' leaves the folder of the table",),
    ),
    Row(
        "option of another importer", literal("data", "import", "images", ".", "--text-column", "x"), ("--text-column",)
    ),
    Row(
        "bad shares",
        literal("data", "import", "images", ".", "--fractions", "1,2"),
        ("--fractions: '1,2'", "add up to 1"),
    ),
    Row("unknown download", literal("data", "fetch", "omnigloot"), ("'omnigloot'", "did you mean 'omniglot'?")),
    Row("manifest of another version", other_manifest_version, ("manifest.json: manifest version 99", "version 1")),
    Row("store not found", change("tasks.store=omnigl0t"), ("no data 'omnigl0t'", "did you mean 'omniglot'?")),
    Row("more ways than classes", with_store("tasks.way=5", "tasks.queries=1", "tasks.eval_queries=1"), ("5", "class")),
    Row("fewer examples than the task needs", with_store("tasks.way=2", "tasks.queries=15"), ("16", "3", "class")),
    Row("unknown split set", with_store("tasks.split_set=vinyals"), ("'vinyals'", "fractions")),
    # clusters
    Row("submitting a bad field", submit("--set", "sed=1"), ("--set sed: unknown field 'sed'", "did you mean 'seed'?")),
    Row("submitting to nowhere", submit(), ("--address: there is no cluster to ask", "RAY_API_SERVER_ADDRESS")),
    Row("no address", submit("--address", "ray://head:1"), ("--address: 'ray://head:1' is no job", "http://HEAD:8265")),
    Row("nobody answers", submit("--address", "http://127.0.0.1:9"), ("--address: nothing answers at http://127.0.0",)),
    Row(
        "address with a password",
        literal("jobs", "list", "--address", "ftp://me:secret@head"),
        ("--address: 'ftp://me:***@head' is no job server",),
    ),
    Row("no variable", submit("--env", "A-B=secret"), ("--env: 'A-B' is not a variable", "NAME=VALUE")),
    Row(
        "password for all to see",
        submit("--set", "tracking.uri=postgresql://me:secret@db/runs", *HEAD),
        ("--set: a password is in it",),
    ),
    Row("job elsewhere", submit("--working-dir", "w", *HEAD), ("run.yaml: is not below", "--working-dir")),
    Row("no working folder", submit("--working-dir", "no", *HEAD), ("--working-dir no: no such folder",)),
    Row("job left out", submit("--exclude", "run.*", *HEAD), ("run.yaml: is left out of what is sent",)),
    Row("jobs of nobody", literal("jobs", "status", "x"), ("--address: there is no cluster to ask",)),
    # the command line
    Row("unknown command", literal("tran"), ("no such command 'tran'", "Did you mean 'train', 'stream'?")),
    Row("unknown sub-command", literal("data", "imprt"), ("no such command 'imprt'", "Did you mean 'import'?")),
    Row("unknown option", literal("train", "x.py", "--resum"), ("no such option: --resum", "--resume")),
    Row("missing argument", literal("train"), ("missing argument 'JOB'", "distmeta train --help")),
    Row("missing option", literal("adapt", "x"), ("--support is missing; allowed: --support and --query, or --unl",)),
    Row("word for a number", literal("evaluate", "x", "--tasks", "many"), ("'--tasks'", "a valid integer")),
    Row("number out of range", literal("evaluate", "x", "--tasks", "0"), ("'--tasks'", "greater than or equal to 2")),
    Row("nothing to look at", literal("ui"), ("--uri: there are no runs in sqlite:///mlflow.db",)),
    Row("unknown split", literal("evaluate", "x", "--split", "tests"), ("--split: unknown value 'tests'", "'test'?")),
    Row("unknown choice", literal("evaluate", "x", "--which", "last"), ("--which: unknown value 'last'", "latest")),
]

ROWS_ON_RUNS = [
    # checkpoints
    Row(
        "missing checkpoint",
        literal("checkpoint", "digest", "nowhere"),
        ("nowhere: there is no such file or folder", "state.json"),
    ),
    Row(
        "evaluating nothing", literal("evaluate", "nowhere"), ("nowhere: there is no such file or folder", "state.json")
    ),
    Row("not a checkpoint", lambda folder: ["checkpoint", "show", str(pictures(folder / "p"))], ("/p", "checkpoint")),
    Row("truncated tensors", checkpoint_with(truncate), ("meta.safetensors",)),
    Row("changed tensors", checkpoint_with(flip_a_bit, "checkpoint", "digest"), ("meta.safetensors", "sha256")),
    Row("other format", checkpoint_with(set_state(format=99)), ("state.json", "99", "1")),
    Row("other content", checkpoint_with(set_state(step="x"), "evaluate"), ("state.json", "step")),
    Row("resuming another course", resume("outer.lr=0.5"), ("outer.lr: is 0.5", "allowed: 0.001")),
    Row("resuming nothing", resume("name=unheard"), ("--resume", "no checkpoint of 'unheard'")),
    # a user's own images
    Row("empty support", adapt(support=None), ("labelled: holds no sub-folder", "one sub-folder")),
    Row("no queries", adapt(queries=0), ("unsorted: no such folder",)),
    Row("undecodable query", adapt(broken=True), ("unsorted/broken.png: the image cannot be decoded",)),
    Row("other number of classes", adapt(support=3), ("labelled: holds 3 class folders", "allowed: 2")),
    Row("learner of numbers", adapt(run="waves"), ("takes inputs of shape (1,)", "square images")),
    Row(
        "texts for images", adapt_texts(run="letters"), ("labelled.csv: is a table", "(1, 16, 16), no texts", "folders")
    ),
    Row("texts for numbers", adapt_texts(run="waves"), ("labelled.csv: is a table", "inputs of shape (1,), no texts")),
    Row("images for texts", adapt(run="questions"), ("labelled: is a folder, but the learner takes texts", "a table")),
    Row("table and folder", adapt_texts(QUESTIONS, "", "--query", "labelled"), ("--support is a file, the other one",)),
    Row("no such table", adapt_texts(QUESTIONS, "", "--query", "none.csv"), ("none.csv: is not a file",)),
    Row("other kind of table", adapt_texts(suffix=".txt"), ("labelled.txt: a table of kind '.txt'", ".csv")),
    Row("table without rows", adapt_texts("text,label\n"), ("labelled.csv: holds no row",)),
    Row("empty table", adapt_texts(""), ("labelled.csv: cannot be read",)),
    Row("no column of texts", adapt_texts("txt,label\na,b\n"), ("labelled.csv: has no column 'text'", "txt")),
    Row("no column of labels", adapt_texts("text,intent\na,b\n"), ("labelled.csv: has no column 'label'", "intent")),
    Row("no texts to label", adapt_texts(QUESTIONS, "question\nwhy\n"), ("unsorted.csv: has no column 'text'",)),
    Row("column twice", adapt_texts("text,text,label\na,b,c\n"), ("labelled.csv: has 2 columns 'text'",)),
    Row("empty text", adapt_texts("text,label\n ,a\n"), ("labelled.csv, row 0, column 'text': is empty",)),
    Row("empty label", adapt_texts("text,label\nb,\n"), ("labelled.csv, row 0, column 'label': is empty",)),
    Row("bytes that are no text", adapt_texts(b"text,label\n\xff\xfe,a\n"), ("labelled.csv: cannot be read",)),
    Row(
        "lists as texts",
        adapt_texts('{"text": [3], "label": "a"}\n', suffix=".jsonl"),
        ("labelled.jsonl: cannot be read: line 1, 'text' is no text",),
    ),
    Row("numbers as texts", adapt_texts(parquet_of_numbers(), suffix=".parquet"), ("column 'text' holds no texts",)),
    Row("half a line of JSON", adapt_texts('{"text": "a", "lab', suffix=".jsonl"), ("labelled.jsonl: ",)),
    Row("unknown column", adapt_texts(QUESTIONS, QUESTIONS, "--text-column", "txet"), ("no column 'txet'",)),
    Row(
        "other number of labels", adapt_texts(QUESTIONS + "why,other\n"), ("labelled.csv: holds 3 labels", "allowed: 2")
    ),
    Row("texts inverted", adapt_texts(QUESTIONS, QUESTIONS, "--invert"), ("--invert: needs images",)),
    Row("columns of images", adapt(extra=("--text-column", "a")), ("need tables of texts",)),
    Row("unknown protocol", adapt(extra=("--protocol", "deductive")), ("'deductive'", "inductive")),
    Row("no search space", tune("no.yaml"), ("no.yaml: cannot be read",)),
    Row("a space in another format", tune("space.toml", ""), ("space.toml", ".yaml, .yml, .json")),
    Row(
        "a kind of values", tune("space.yaml", "outer.lr: {grd: [1]}"), ("space.yaml: outer.lr", "did you mean 'grid'?")
    ),
    Row("a field in a space", tune("space.yaml", "outer.rate: {grid: [1]}"), ("outer.rate", "unknown field 'rate'")),
    Row("no folder for the labels", adapt(extra=("--out", "nowhere/labels.csv")), ("nowhere: no such folder",)),
]


# --- tests ---


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny trained runs, to copy and to damage."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [f"{intent} {index}" for intent in "abcd" for index in range(3)]
    splits = {"all": {"train": [0, 1], "val": [], "test": [2, 3]}}
    write_store(folder / "store", rows, class_names=list("abcd"), class_counts=[3] * 4, splits=splits)
    questions = QUESTIONS_RUN.replace("STORE", str(folder / "store"))
    for name, text in (("waves.yaml", WAVES), ("letters.yaml", LETTERS), ("questions.yaml", questions)):
        with pytest.raises(SystemExit) as ended:
            main(["train", str(write(folder / name, text)), "--set", f"checkpoint.path={folder / 'runs'}", "--json"])
        assert ended.value.code == 0
    return folder / "runs"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_line_and_nothing_made(row: Row, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(row, here, capsys)


@pytest.mark.parametrize("row", ROWS_ON_RUNS, ids=lambda row: row.name)
def test_one_line_about_a_run(row: Row, here: Path, trained_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_runs, here / "runs")
    capsys.readouterr()
    judge(row, here, capsys)


@pytest.mark.parametrize("name", ["unknown field", "unknown option", "undecodable image"])
def test_the_same_from_a_shell(name: str, here: Path) -> None:
    row = next(row for row in ROWS if row.name == name)
    command = [sys.executable, "-m", "distmeta", *row.arguments(here)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    before = files_below(here)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=here, env=environment)
    check(row, done.stdout, done.stderr)
    assert done.returncode == 2
    assert files_below(here) == before
