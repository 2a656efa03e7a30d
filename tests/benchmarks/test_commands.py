"""`distmeta bench` on tiny sizes, from the command line to JSON, pictures and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster.common import overhead
from benchmarks.cluster.common.programs import SleepProgram
from benchmarks.engine import speed
from benchmarks.engine.common.peers import PEERS
from benchmarks.engine.common.workload import Workload
from distmeta.cli import bench, main
from distmeta.config import RuntimeConfig
from distmeta.runtime.executor import Executor
from distmeta.runtime.local import LocalExecutor

ENGINE = ["bench", "engine", "--rows", "sine_25x1", "--tasks", "3", "--rounds", "2", "--threads", "1"]
MEMORY = ["bench", "memory", "--way", "2", "--shots", "1", "--queries", "1", "--rounds", "1", "--threads", "1"]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def last_object(stdout: str) -> dict[str, Any]:
    result = json.loads(stdout.splitlines()[-1])
    assert isinstance(result, dict)
    return result


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def small_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peak by small kernels."""
    peak = speed.peak_gflops
    monkeypatch.setattr(speed, "peak_gflops", lambda threads, device, side: peak(threads, device, 64))


@pytest.fixture(params=["in this process", pytest.param("ray", marks=pytest.mark.slow)])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of `bench server` and `scale`: actors, or by default the local executor."""

    @contextmanager
    def local_workers(
        max_workers: int, object_store_bytes: int, *, light: bool = False, leaders: int = 0
    ) -> Iterator[Callable[[int], AbstractContextManager[Executor]]]:
        @contextmanager
        def workers_of(count: int) -> Iterator[Executor]:
            yield LocalExecutor(RuntimeConfig(), SleepProgram())

        yield workers_of

    if request.param != "ray":
        monkeypatch.setattr(overhead, "ray_workers", local_workers)


def test_without_a_checkout_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_CHECKOUT", tmp_path)
    for arguments in (["bench"], ["bench", "--help"], ["bench", "engine", "--rows", "sine_25x1"]):
        assert run(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("error: distmeta bench: the benchmarks are not part of the installed package; allowed: ")


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "-h"], ["bench", "--help"]])
def test_the_commands_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", text) for name in ("engine", "memory", "data", "server", "scale"))
    assert "distmeta bench engine --rows" in text
    assert "pip install 'distmeta[dev]'" in text
    assert "--install-completion" not in text


def test_the_help_of_the_engine_lists_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "engine", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: distmeta bench engine" in text
    assert "conv4_5w1s_1q_5" in text
    assert "--contenders" in text


@pytest.mark.usefixtures("small_peak")
def test_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contenders = ["--contenders", "higher,torchopt", "--contenders", "loop,vmap"]
    assert run([*ENGINE, *contenders, "--json", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    result = last_object(captured.out)
    assert {"machine", "busy_before", "settings"} <= set(result)
    assert result["agree"] is True
    (row,) = result["rows"]
    names = [entry["contender"] for entry in row["contenders"]]
    assert names == ["plain_loop", "higher", "torchopt", "loop", "vmap"]
    assert all(entry["status"] == "ok" and entry["tasks_per_s"] > 0 for entry in row["contenders"])
    assert all(entry["by_task"]["median"] < 1e-4 for entry in row["contenders"])
    assert json.loads((tmp_path / "bench_engine.json").read_text())["rows"] == result["rows"]
    assert is_picture(tmp_path / "bench_engine.png")
    assert "distmeta: vmap" in captured.err
    assert "sine_25x1: timing 2 rounds of 5" in captured.err


@pytest.mark.slow
@pytest.mark.usefixtures("small_peak")
def test_a_wrong_gradient_ends_with_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(workload: Workload) -> object:
        return lambda: {name: tensor + 1 for name, tensor in workload.meta.items()}

    monkeypatch.setitem(PEERS, "higher", wrong)
    assert run([*ENGINE, "--contenders", "higher"]) == 1
    captured = capsys.readouterr()
    assert "higher: disagrees: median relative error" in captured.out
    assert captured.err.splitlines()[-1] == "error: gradients disagree with the reference: sine_25x1: higher"


@pytest.mark.slow
def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*MEMORY, "--steps", "1", "--contenders", "plain_loop", "--json", "--out", str(tmp_path)]
    assert run(arguments) == 0
    (cell,) = last_object(capsys.readouterr().out)["cells"]
    assert (cell["contender"], cell["steps"], cell["status"]) == ("plain_loop", 1, "ok")
    assert cell["peak_mib"] >= 0
    assert cell["seconds_per_task"] > 0
    assert (tmp_path / "bench_memory.json").exists()
    assert is_picture(tmp_path / "bench_memory.png")


def test_contenders_over_a_limit_are_skipped_with_more_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*MEMORY, "--steps", "2,1", "--contenders", "plain_loop", "--limit-mib", "1", "--json"]) == 0
    cells = last_object(capsys.readouterr().out)["cells"]
    assert [(cell["steps"], cell["status"]) for cell in cells] == [(1, "too large"), (2, "skipped")]


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "data", "--tasks", "1", "--rounds", "1", "--threads", "1", "--json", "--out", str(tmp_path)]
    assert run(arguments) == 0
    sources = last_object(capsys.readouterr().out)["sources"]
    assert [source["source"] for source in sources] == ["sinusoid", "glyphs"]
    assert all(source["share"] == pytest.approx(source["build_s"] / source["step_s"]) for source in sources)
    assert (tmp_path / "bench_data.json").exists()


@pytest.mark.usefixtures("workers")
def test_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "server", "--workers", "2", "--payload", "0.1,1e9", "--steps", "2", "--leaders", "1"]
    assert run([*arguments, "--json", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    result = last_object(captured.out)
    (row,) = result["rows"]
    assert (row["workers"], row["payload_mb"], row["steps"], result["leaders"]) == (2, 0.1, 2, 1)
    assert row["bytes"] == pytest.approx(2e5, rel=0.1)
    assert 0 < row["send_s"] < row["overhead_s"]
    assert row["x_copy"] == pytest.approx(row["overhead_s"] / row["copy_s"])
    (left_out,) = result["left_out"]
    assert left_out["payload_mb"] == 1e9
    assert "2 workers, 1e+09 MB: left out: needs " in captured.err
    assert result["goals"] == {}
    assert json.loads((tmp_path / "bench_server.json").read_text())["rows"] == result["rows"]
    assert is_picture(tmp_path / "bench_server.png")


@pytest.mark.usefixtures("workers")
def test_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = ["--calibrate", "1,2", "--calibrate-payload", "0.1,0.4", "--check", "2", "--check-payload", "0.2"]
    predicted = ["--max-workers", "20", "--payload", "0.1,1", "--compute-ms", "5", "--per-machine", "4"]
    arguments = ["bench", "scale", *measured, *predicted, "--steps", "2", "--json", "--out", str(tmp_path)]
    assert run(arguments) == 0
    result = last_object(capsys.readouterr().out)
    samples = [(sample["workers"], round(sample["payload"] / 1e5)) for sample in result["calibration"]]
    assert samples == [(workers, size) for workers in (1, 2) for size in (1, 4)]
    assert all(cost >= 0 for cost in result["costs"].values())
    check, *led = result["checks"]
    assert [each["leaders"] for each in (check, *led)] == [0, 1, 2]
    assert check["measured_s"] > 0.009  # two shards of about 5 ms
    assert check["error"] == pytest.approx(check["predicted_s"] / check["measured_s"] - 1)
    assert [point["workers"] for point in result["curve"]] == [1, 2, 4, 8, 16, 20] * 2
    assert all(0 < point["efficiency"] <= 1 for point in result["curve"])
    assert (tmp_path / "bench_scale.json").exists()
    assert is_picture(tmp_path / "bench_scale.png")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["engine", "--rows", "sine_25"], ("--rows: unknown row 'sine_25'", "did you mean 'sine_25x1'?")),
        (["engine", "--rows", "sine_25x1,nothing"], ("--rows: unknown row 'nothing'", "conv4_5w1s_1q_5")),
        (["engine", "--contenders", "hihger"], ("--contenders: unknown contender 'hihger'", "mean 'higher'?")),
        (["engine", "--tasks", "0"], ("'--tasks'", "greater than or equal to 1")),
        (["engine", "--rounds", "many"], ("'--rounds'", "a valid integer")),
        (["engine", "--device", "gpu"], ("--device: no device 'gpu' here", "allowed: cpu")),
        (["memory", "--steps", "5,x"], ("--steps: '5,x'", "positive whole numbers")),
        (["memory", "--steps", "0"], ("--steps: '0'", "positive whole numbers")),
        (["memory", "--way", "1"], ("'--way'", "greater than or equal to 2")),
        (["memory", "--contenders", "loop/round"], ("unknown contender 'loop/round'", "loop/unrolled")),
        (["data", "--strategy", "fast"], ("--strategy: unknown value 'fast'", "vmap")),
        (["server", "--workers", "2,0"], ("--workers: '2,0'", "positive whole numbers")),
        (["server", "--payload", "0.5;20"], ("--payload: '0.5;20'", "sizes in MB")),
        (["server", "--workers", "2", "--payload", "1e9"], ("--payload: no row fits", "smaller payloads")),
        (["scale", "--calibrate", "2"], ("--calibrate: 2 alone", "two values or more")),
        (["scale", "--calibrate-payload", "nan,1"], ("--calibrate-payload: 'nan,1'", "sizes in MB")),
        (["scale", "--check-payload", "1e9"], ("--check: 32 workers need", "fewer workers")),
        (["speed"], ("no such command 'speed'",)),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in expected)
