"""The training by Ray Train: data-parallel workers, gradients added by gloo, checkpoints reported by the first one.

python -m benchmarks.faults.by_ray_train FOLDER FORM STEPS
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.faults.job import LR, SAVE_EVERY, TASKS, WORKERS, config

TIMEOUT_S = 15
"""Of a collective: the only way by which a worker that hangs is noticed. As long as distmeta's heartbeat."""


def train(settings: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train
    import torch
    import torch.distributed as dist

    import distmeta
    from distmeta.core.tensors import digest

    torch.set_num_threads(1)
    rank, folder, steps = ray.train.get_context().get_world_rank(), Path(settings["folder"]), settings["steps"]
    algorithm = distmeta.build(config(settings["form"], steps))
    meta = algorithm.init()
    optimizer = torch.optim.Adam(meta.values(), lr=LR)
    done = 0
    if (found := ray.train.get_checkpoint()) is not None:
        with found.as_directory() as path:
            state = torch.load(Path(path) / "state.pt", weights_only=True)
        done = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        for name, tensor in meta.items():
            tensor.copy_(state["meta"][name])
    share = TASKS // WORKERS
    for step in range(done, steps):
        tasks = algorithm.tasks("train", step, TASKS).select(range(rank * share, (rank + 1) * share))
        mean = algorithm.update(meta, tasks)
        flat = torch.cat([gradient.flatten() for gradient in mean.grad.values()])
        dist.all_reduce(flat)
        place = 0
        for name, gradient in mean.grad.items():
            meta[name].grad = (flat[place : place + gradient.numel()] / WORKERS).view_as(gradient)
            place += gradient.numel()
        optimizer.step()
        if rank == 0:
            with (folder / "journal").open("a") as journal:
                journal.write(f"step {step + 1}/{steps}\n")
        if (step + 1) % SAVE_EVERY == 0:
            with tempfile.TemporaryDirectory() as path:
                checkpoint = None
                if rank == 0:
                    state = {"step": step + 1, "meta": meta, "optimizer": optimizer.state_dict()}
                    torch.save(state, Path(path) / "state.pt")
                    checkpoint = ray.train.Checkpoint.from_directory(path)
                ray.train.report({"step": step + 1}, checkpoint=checkpoint)
    if rank == 0:
        with (folder / "journal").open("a") as journal:
            journal.write(f"digest {digest(meta)}\n")


def main() -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder, form, steps = Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3])
    ray.init(num_cpus=WORKERS + 1)
    TorchTrainer(
        train,
        train_loop_config={"folder": str(folder), "form": form, "steps": steps},
        torch_config=TorchConfig(backend="gloo", timeout_s=TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            name="faults", storage_path=str(folder / "runs"), failure_config=FailureConfig(max_failures=100)
        ),
    ).fit()


if __name__ == "__main__":
    main()
