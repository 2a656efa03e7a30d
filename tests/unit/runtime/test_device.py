"""Devices that a process does not have are refused before it computes."""

from __future__ import annotations

import pytest
import torch

from distmeta.config import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.runtime import build_executor, device
from distmeta.runtime.device import check_device
from distmeta.runtime.ray.actor import WorkerActor

from ...fakes import FakeRecipe


@pytest.mark.parametrize(
    ("name", "num_gpus", "message"),
    [
        ("cpu", 0, None),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        (
            "cuda",
            0,
            "runtime.device: 'cuda' is not there: this process has no GPU; allowed: cpu, or a machine that has it",
        ),
        (
            "cuda:1",
            1,
            "runtime.device: 'cuda:1' is not there: this process has 1 GPU; "
            "allowed: cpu, cuda, cuda:0, or a machine that has it",
        ),
    ],
)
def test_a_device_has_to_be_there(
    name: str, num_gpus: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_num_gpus", lambda: num_gpus)
    if message is None:
        check_device(name)
    else:
        with pytest.raises(UserError) as raised:
            check_device(name)
        assert str(raised.value) == message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_executor_is_built_without_its_device() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(
        UserError, match=r"^runtime\.device: 'cuda' is not there: this process has no GPU; allowed: cpu"
    ):
        build_executor(RuntimeConfig(executor="local", device="cuda", threads_per_worker=threads + 1), FakeRecipe())
    assert torch.get_num_threads() == threads
    with pytest.raises(
        UserError, match=r"worker 3 has no GPU; allowed: cpu, or runtime\.gpus_per_worker=1 in a cluster"
    ):
        WorkerActor().start(3, FakeRecipe(), threads, "none", "cuda")
