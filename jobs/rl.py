"""Meta-reinforcement learning: 2D navigation and HalfCheetah (Finn et al. 2017, section 5.3), by policy gradients.

A point is to find a goal that it is not told. It walks 20 trajectories of 100 steps, adapts to their rewards in one
step, and walks again.

    distmeta train jobs/rl.py:navigation_maml
    distmeta train jobs/rl.py:navigation_maml_trpo      # the outer step of the paper
    distmeta train jobs/rl.py:navigation_maml_ppo       # several outer steps on the same trajectories
    distmeta train jobs/rl.py:navigation_anil --set runtime.executor=local
    distmeta train jobs/rl.py:navigation_rl2            # a policy that remembers two walks, without inner steps
    distmeta evaluate runs/rl_navigation_maml
    python jobs/rl.py navigation_pretrained      # one policy for all goals, fine-tuned: what MAML is compared with
    distmeta train jobs/rl.py:cheetah_dir_maml   # needs MuJoCo: pip install distmeta[rl]
"""

from typing import Literal

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    CheetahTasks,
    EvaluationConfig,
    NavigationTasks,
    OuterConfig,
    PolicyConfig,
    RunConfig,
    RuntimeConfig,
    Term,
    TrainConfig,
    TrustRegionConfig,
)


def _navigation(algorithm: AlgorithmConfig) -> RunConfig:
    return RunConfig(
        name=f"rl_navigation_{algorithm.method.removesuffix('_rl')}",
        tasks=NavigationTasks(shots=20, queries=20, eval_queries=20),
        model=PolicyConfig(hidden=(100, 100)),
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=3e-3),
        train=TrainConfig(steps=200, tasks_per_step=20, log_every=10),
        runtime=RuntimeConfig(workers=2, shard_size=10),
        evaluation=EvaluationConfig(every=50, tasks=40, final_tasks=200),
        checkpoint=CheckpointConfig(every=50),
    )


def navigation_maml() -> RunConfig:
    """MAML, second order by DiCE; one inner step of 0.1."""
    return _navigation(methods.maml_rl())


def navigation_fomaml() -> RunConfig:
    """First-order MAML."""
    return _navigation(methods.fomaml_rl())


def navigation_anil() -> RunConfig:
    """ANIL: one inner step moves the head of means, at a rate at which that is enough (0.1 is not)."""
    return _navigation(methods.anil_rl(lr=0.5, eval_steps=1))


def navigation_maml_trpo() -> RunConfig:
    """MAML with the outer step of the paper, TRPO."""
    return _trpo(navigation_maml())


def navigation_anil_trpo() -> RunConfig:
    """ANIL with the outer step of the paper, TRPO."""
    return _trpo(navigation_anil())


def navigation_maml_ppo() -> RunConfig:
    """MAML with five outer steps on the same trajectories, by the clipped loss of PPO."""
    job = _navigation(methods.maml_rl(clip=0.2))
    outer, train = OuterConfig(optimizer="Adam", lr=1e-3, epochs=5), job.train.model_copy(update={"steps": 1000})
    return job.model_copy(update={"name": f"{job.name}_ppo", "outer": outer, "train": train})


def navigation_rl2() -> RunConfig:
    """RL2: trials of two walks, and a policy with a memory; two outer steps of PPO on the same trials.

    A policy first learns to stay where it is, which is better than to walk at random; what keeps its deviation up lets
    it find out that a reward tells where to go. Many tasks with few trials are worth more than few with many.
    """
    job = _navigation(methods.rl2(discount=0.9, gae=0.9))
    changes = {
        "tasks": job.tasks.model_copy(update={"episodes": 2, "queries": 2}),
        "model": PolicyConfig(hidden=(64,), memory=64, min_std=0.25),
        "outer": OuterConfig(optimizer="Adam", lr=1e-2, clip_norm=1.0, epochs=2),
        "train": job.train.model_copy(update={"steps": 400, "tasks_per_step": 40}),
        "runtime": RuntimeConfig(workers=2, shard_size=20),
    }
    return job.model_copy(update=changes)


def _trpo(job: RunConfig) -> RunConfig:
    outer = OuterConfig(optimizer="SGD", lr=1.0, trust_region=TrustRegionConfig(max_kl=0.01))
    return job.model_copy(update={"name": f"{job.name}_trpo", "outer": outer})


def navigation_pretrained() -> RunConfig:
    """One policy trained on all goals without adaptation, then adapted by the same steps."""
    return _navigation(_pretrained())


def _pretrained() -> AlgorithmConfig:
    maml = methods.maml_rl()
    terms = tuple(Term.model_validate({**term.model_dump(), "at": "meta"}) for term in maml.terms)
    return AlgorithmConfig.model_validate({**maml.model_dump(), "method": "pretrained_rl", "terms": terms})


def _cheetah(goal: Literal["direction", "velocity"], algorithm: AlgorithmConfig) -> RunConfig:
    name = f"rl_cheetah_{goal[:3]}_{algorithm.method.removesuffix('_rl')}"
    tasks = CheetahTasks(goal=goal, shots=20, queries=20, eval_queries=20)
    evaluation = EvaluationConfig(every=50, tasks=20, final_tasks=40)
    return _navigation(algorithm).model_copy(update={"name": name, "tasks": tasks, "evaluation": evaluation})


def cheetah_dir_maml() -> RunConfig:
    """HalfCheetah forward or backward: MAML."""
    return _cheetah("direction", methods.maml_rl())


def cheetah_dir_anil() -> RunConfig:
    """HalfCheetah forward or backward: ANIL."""
    return _cheetah("direction", methods.anil_rl())


def cheetah_dir_pretrained() -> RunConfig:
    """HalfCheetah forward or backward: one policy for both, then the same inner steps."""
    return _cheetah("direction", _pretrained())


def cheetah_vel_maml() -> RunConfig:
    """HalfCheetah at a speed from 0 to 3 m/s: MAML."""
    return _cheetah("velocity", methods.maml_rl())


def cheetah_vel_anil() -> RunConfig:
    """HalfCheetah at a speed from 0 to 3 m/s: ANIL."""
    return _cheetah("velocity", methods.anil_rl())


if __name__ == "__main__":
    run_job(__file__)
