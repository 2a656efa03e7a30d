"""Few-shot learning of Omniglot's characters, 5-way 1-shot: one function for each method, 10 minutes on two cores.

Needs the Omniglot zips below $DISTMETA_DATA/omniglot, or a store made by `distmeta data import omniglot DIR`.

    distmeta train jobs/omniglot.py:maml
    distmeta train jobs/omniglot.py:protonet --set tasks.way=20 --set tasks.shots=5
    distmeta submit jobs/omniglot.py:maml --address http://HEAD:8265
    python jobs/omniglot.py reptile --set train.budget_s=60
"""

from typing import Any

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    Conv4Config,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    StoreTasks,
    TrainConfig,
)


def _tasks(**fields: Any) -> StoreTasks:
    return StoreTasks(store="omniglot", rotations=True, way=5, shots=1, eval_queries=1, **fields)


def _adam(lr: float) -> OuterConfig:
    return OuterConfig(optimizer="Adam", lr=lr, average=0.995)


ONE_QUERY = _tasks(queries=1)
MANY_WAYS = _tasks(train_way=20, queries=2)
ADAM = _adam(3e-3)
COMPILED = EngineConfig(strategy="compiled")
"""Needs a C++ compiler; half a minute the first time, for iMAML two."""
CONV4 = Conv4Config(filters=64, downsample="stride")
ANIL_LR = 0.5
"""Best of 0.1, 0.5, 2 and 8 on validation, 20 ways, two minutes; 84% against 71% at 0.1 after 150 steps with 5 ways."""


def _job(
    algorithm: AlgorithmConfig,
    *,
    tasks: StoreTasks = ONE_QUERY,
    model: Conv4Config = CONV4,
    outer: OuterConfig = ADAM,
    engine: EngineConfig = COMPILED,
    steps: int = 60_000,
    tasks_per_step: int = 32,
    every: int = 1000,
    eval_tasks: int = 400,
    final_tasks: int = 2000,
) -> RunConfig:
    """A method on conv4: two shards a step, one for each worker, evaluated and saved `every` so many steps."""
    return RunConfig(
        name=f"omniglot_{algorithm.method}",
        tasks=tasks,
        model=model,
        algorithm=algorithm,
        engine=engine,
        outer=outer,
        train=TrainConfig(steps=steps, tasks_per_step=tasks_per_step, budget_s=600),
        runtime=RuntimeConfig(workers=2, shard_size=tasks_per_step // 2),
        evaluation=EvaluationConfig(every=every, tasks=eval_tasks, final_tasks=final_tasks),
        checkpoint=CheckpointConfig(every=every),
    )


def maml() -> RunConfig:
    """MAML, exact second order (Finn et al. 2017, section 5.2)."""
    return _job(methods.maml(lr=0.4, steps=1, eval_steps=3), every=500)


def fomaml() -> RunConfig:
    """First-order MAML (Finn et al. 2017, section 5.2)."""
    return _job(methods.fomaml(lr=0.4, steps=1, eval_steps=3))


def anil() -> RunConfig:
    """ANIL (Raghu et al. 2020): only the head adapts, at five times the paper's rate, which learns faster."""
    return _job(methods.anil(lr=ANIL_LR, steps=5))


def meta_sgd() -> RunConfig:
    """Meta-SGD (Li et al. 2017): learned inner rates."""
    return _job(methods.meta_sgd(lr=0.1, steps=1), every=500)


def imaml() -> RunConfig:
    """Implicit MAML (Rajeswaran et al. 2019): a proximal inner problem, solved by gradient descent."""
    return _job(methods.imaml(), outer=_adam(1e-3), steps=20_000, every=200, final_tasks=600)


def imaml_hf() -> RunConfig:
    """Hessian-free iMAML (Rajeswaran et al. 2019): the inner problem is solved by Newton steps."""
    engine = EngineConfig(strategy="vmap")  # the graph of a Newton step takes minutes to compile
    return _job(methods.imaml_hf(), outer=_adam(1e-3), engine=engine, steps=20_000, every=200, final_tasks=600)


def boil() -> RunConfig:
    """BOIL (Oh et al. 2021): everything but the head adapts."""
    return _job(methods.boil(lr=0.5, steps=1), every=500)


def maml_pp() -> RunConfig:
    """MAML++ (Antoniou et al. 2019), norms by step among it, with the annealing of a run of ten minutes."""
    algorithm = methods.maml_pp(lr=0.1, steps=5, first_order_until=500, each_until=500, per_step=("norm",))
    return _job(algorithm, outer=OuterConfig(optimizer="Adam", lr=3e-3, schedule="cosine", average=0.995), every=500)


def cavia() -> RunConfig:
    """CAVIA (Zintgraf et al. 2019): 100 context parameters modulate the third block."""
    model = Conv4Config(filters=64, downsample="stride", context_size=100)
    return _job(methods.cavia(lr=1.0, steps=2), model=model, every=500)


def protonet() -> RunConfig:
    """ProtoNet (Snell et al. 2017), trained on 20 ways."""
    return _job(methods.protonet(), tasks=MANY_WAYS, outer=_adam(1e-3), tasks_per_step=8)


def proto_maml() -> RunConfig:
    """Proto-MAML (Triantafillou et al. 2020), trained on 20 ways."""
    return _job(methods.proto_maml(), tasks=MANY_WAYS, outer=_adam(1e-3), tasks_per_step=8)


def matching() -> RunConfig:
    """Matching network (Vinyals et al. 2016), trained on 20 ways, with a tenth of the paper's temperature."""
    return _job(methods.matching(scale=10.0), tasks=MANY_WAYS, outer=_adam(1e-3), tasks_per_step=8)


def knn() -> RunConfig:
    """Weighted nearest neighbours: five of the twenty training examples count."""
    return _job(methods.knn(neighbours=5), tasks=MANY_WAYS, outer=_adam(1e-3), tasks_per_step=8)


def r2d2() -> RunConfig:
    """R2-D2 (Bertinetto et al. 2019): a ridge head, trained on 20 ways."""
    return _job(methods.r2d2(scale=10.0), tasks=MANY_WAYS, outer=_adam(1e-3), tasks_per_step=8)


def nil() -> RunConfig:
    """NIL (Raghu et al. 2020): trained as ANIL, tested without a head."""
    return _job(methods.nil(lr=ANIL_LR, steps=5))


def lstm() -> RunConfig:
    """An LSTM that reads the support set (Santoro et al. 2016, without their memory)."""
    return _job(methods.lstm(), tasks=_tasks(queries=3), outer=_adam(1e-3))


def neural_process() -> RunConfig:
    """Conditional neural process (Garnelo et al. 2018), trained by the cross-entropy of the queries."""
    return _job(methods.neural_process(likelihood=False), tasks=_tasks(queries=3), outer=_adam(1e-3))


def in_context() -> RunConfig:
    """A transformer over support pairs and queries (Kirsch et al. 2022, Garg et al. 2022)."""
    return _job(methods.in_context(), tasks=_tasks(queries=3), outer=_adam(1e-3))


def pretrain() -> RunConfig:
    """Joint pre-training on all training classes, then a fresh head for each task: the transfer baseline."""
    return _job(methods.pretrain(lr=0.5, steps=20), outer=_adam(1e-3), tasks_per_step=4)


def reptile() -> RunConfig:
    """Reptile (Nichol et al. 2018): ten training shots, inner Adam."""
    return _job(
        methods.reptile(lr=1e-3, steps=5, batch=10, eval_steps=50),
        tasks=_tasks(train_shots=10, queries=1),
        outer=OuterConfig(optimizer="SGD", lr=1.0, average=0.99),
        steps=100_000,
        tasks_per_step=6,
        every=2000,
        eval_tasks=100,
        final_tasks=300,
    )


if __name__ == "__main__":
    run_job(__file__)
