"""`distmeta bench` on tiny sizes, from the command line to JSON, pictures and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine.peers import PEERS
from benchmarks.engine.work import Work
from distmeta.cli import main

ENGINE = ["bench", "engine", "--rows", "sine_25x1", "--tasks", "3", "--rounds", "2", "--threads", "1"]
MEMORY = ["bench", "memory", "--way", "2", "--shots", "1", "--queries", "1", "--rounds", "1", "--threads", "1"]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def last_object(stdout: str) -> dict[str, Any]:
    found = json.loads(stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--contenders", "higher,torchopt", "--contenders", "loop,vmap"]
    assert run([*ENGINE, *chosen, "--json", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    found = last_object(captured.out)
    assert found["agree"] is True
    (row,) = found["rows"]
    assert [one["contender"] for one in row["contenders"]] == ["plain_loop", "higher", "torchopt", "loop", "vmap"]
    assert all(one["status"] == "ok" and one["tasks_per_s"] > 0 for one in row["contenders"])
    assert all(one["agreement"]["error"] < 1e-4 for one in row["contenders"])
    assert json.loads((tmp_path / "bench_engine.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "bench_engine.png").read_bytes().startswith(b"\x89PNG")
    assert "distmeta: vmap" in captured.err


def test_a_wrong_gradient_ends_with_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(work: Work) -> object:
        return lambda: {name: tensor + 1 for name, tensor in work.meta.items()}

    monkeypatch.setitem(PEERS, "higher", wrong)
    assert run([*ENGINE, "--contenders", "higher"]) == 1
    captured = capsys.readouterr()
    assert "higher: disagrees: relative error" in captured.out
    assert captured.err.splitlines()[-1] == "error: gradients disagree with the reference: sine_25x1: higher"


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*MEMORY, "--steps", "1", "--contenders", "plain_loop", "--json", "--out", str(tmp_path)]
    assert run(arguments) == 0
    found = last_object(capsys.readouterr().out)
    (cell,) = found["cells"]
    assert (cell["contender"], cell["steps"], cell["status"]) == ("plain_loop", 1, "ok")
    assert cell["peak_mib"] >= 0
    assert cell["seconds_per_task"] > 0
    assert (tmp_path / "bench_memory.json").exists()
    assert (tmp_path / "bench_memory.png").read_bytes().startswith(b"\x89PNG")


def test_cells_over_a_limit_are_named_and_larger_ones_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*MEMORY, "--steps", "2,1", "--contenders", "plain_loop", "--limit-mib", "1", "--json"]) == 0
    cells = last_object(capsys.readouterr().out)["cells"]
    assert [(cell["steps"], cell["status"]) for cell in cells] == [(1, "too large"), (2, "skipped")]


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "data", "--tasks", "1", "--rounds", "1", "--threads", "1", "--json", "--out", str(tmp_path)]
    assert run(arguments) == 0
    found = last_object(capsys.readouterr().out)
    assert [one["source"] for one in found["sources"]] == ["sinusoid", "glyphs"]
    assert all(one["share"] == pytest.approx(one["build_s"] / one["step_s"]) for one in found["sources"])
    assert (tmp_path / "bench_data.json").exists()


def test_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "server", "--workers", "2", "--payload", "0.1,1e9", "--steps", "2"]
    assert run([*arguments, "--json", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    found = last_object(captured.out)
    (row,) = found["rows"]
    assert (row["workers"], row["payload_mb"], row["steps"]) == (2, 0.1, 2)
    assert row["bytes"] == pytest.approx(2e5, rel=0.1)
    assert 0 < row["send_s"] < row["overhead_s"]
    assert row["x_copy"] == pytest.approx(row["overhead_s"] / row["copy_s"])
    (refused,) = found["left_out"]
    assert refused["payload_mb"] == 1e9
    assert "2 workers, 1e+09 MB: left out: needs " in captured.err
    assert found["goals"] == {"overhead": None, "growth": None}
    assert json.loads((tmp_path / "bench_server.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "bench_server.png").read_bytes().startswith(b"\x89PNG")


def test_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = ["--calibrate", "1,2", "--calibrate-payload", "0.1,0.4", "--check", "2", "--check-payload", "0.2"]
    predicted = ["--max-workers", "20", "--payload", "0.1,1", "--compute-ms", "5", "--per-machine", "4"]
    arguments = ["bench", "scale", *measured, *predicted, "--steps", "2", "--json", "--out", str(tmp_path)]
    assert run(arguments) == 0
    found = last_object(capsys.readouterr().out)
    assert [(cell["workers"], round(cell["payload"] / 1e5)) for cell in found["calibration"]] == [
        (workers, size) for workers in (1, 2) for size in (1, 4)
    ]
    assert all(cost >= 0 for cost in found["costs"].values())
    (check,) = found["checks"]
    assert check["measured_s"] > 0.009  # two shards of about 5 ms
    assert check["error"] == pytest.approx(check["predicted_s"] / check["measured_s"] - 1)
    assert [point["workers"] for point in found["curve"]] == [1, 2, 4, 8, 16, 20] * 2
    assert all(0 < point["efficiency"] <= 1 for point in found["curve"])
    assert (tmp_path / "bench_scale.json").exists()
    assert (tmp_path / "bench_scale.png").read_bytes().startswith(b"\x89PNG")


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
