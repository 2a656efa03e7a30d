"""The golden runs: every method trained for a few steps in one process, with a fixed engine strategy.

They take a second each and are small enough to be run on two commits and compared bit for bit (`make golden`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from distmeta import checkpoint as checkpoints
from distmeta.config import (
    CheckpointConfig,
    Conv4Config,
    ConvNetConfig,
    EngineConfig,
    EvaluationConfig,
    GlyphTasks,
    MixedConfig,
    MlpConfig,
    MlpRuleConfig,
    NavigationTasks,
    OuterConfig,
    PolicyConfig,
    QuadraticTasks,
    ResNet12Config,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    StreamOptions,
    TextTasks,
    TrackingConfig,
    TrainConfig,
    TransformerConfig,
    TrustRegionConfig,
)
from distmeta.core.tensors import global_norm
from distmeta.methods import (
    anil,
    anil_rl,
    anml,
    auto_rgn,
    bn_adapt,
    boil,
    cavia,
    dann,
    darts,
    deep_coral,
    evolved_optimizer,
    film,
    fine_tuning,
    fomaml,
    fomaml_rl,
    hyperparameters,
    imaml,
    imaml_hf,
    in_context,
    joint,
    knn,
    l2sp,
    label_words,
    learned_loss,
    learned_optimizer,
    linear_probe,
    lp_ft,
    lstm,
    maml,
    maml_pp,
    maml_rl,
    matching,
    merlin,
    meta_sgd,
    multitask,
    neural_process,
    nil,
    oml,
    pretrain,
    proto_maml,
    protonet,
    r2d2,
    reptile,
    reweight,
    rl2,
    surgical,
    target_only,
    tent,
    ttt,
    weight_generator,
)
from distmeta.training import train

from ..decoders import texts_in, transformer

_SMALL_IMAGES: dict[str, Any] = {"way": 3, "shots": 2, "queries": 3, "eval_queries": 3, "size": 16}
_ADAM = OuterConfig(optimizer="Adam", lr=3e-3, average=0.9, schedule="cosine", clip_norm=1.0)


def _glyphs(**fields: Any) -> GlyphTasks:
    return GlyphTasks.model_validate({**_SMALL_IMAGES, **fields})


def _run(name: str, strategy: str, algorithm: Any, **sections: Any) -> RunConfig:
    """A run of five steps of six tasks in shards of four."""
    defaults: dict[str, Any] = {"tasks": _glyphs(), "model": Conv4Config(filters=6), "outer": _ADAM}
    return RunConfig(
        name=name,
        seed=3,
        algorithm=algorithm,
        engine=EngineConfig.model_validate({"strategy": strategy}),
        train=TrainConfig(steps=5, tasks_per_step=6),
        runtime=RuntimeConfig(executor="local", shard_size=4),
        evaluation=EvaluationConfig(every=0, final_tasks=6),
        tracking=TrackingConfig(kind="none", model=False),
        **{**defaults, **sections},
    )


_WAVES = {"model": MlpConfig(hidden=(16, 16)), "outer": OuterConfig(optimizer="Adam", lr=1e-2)}
_CONTEXT_WAVES = {**_WAVES, "model": MlpConfig(hidden=(16, 16), context_size=3)}
_RESNET = ResNet12Config(widths=(4, 4, 6, 8))
_NAVIGATION: dict[str, Any] = {
    "tasks": NavigationTasks(shots=6, queries=6, eval_queries=6, horizon=12),
    "model": PolicyConfig(hidden=(12,)),
    "outer": OuterConfig(optimizer="Adam", lr=1e-2),
}
_TRIALS: dict[str, Any] = {
    "tasks": NavigationTasks(shots=6, queries=6, eval_queries=6, horizon=8, episodes=2),
    "model": PolicyConfig(hidden=(8,), memory=10),
    "outer": OuterConfig(optimizer="Adam", lr=1e-2, clip_norm=1.0, epochs=3),
}
_REGION = OuterConfig(optimizer="SGD", lr=1.0, trust_region=TrustRegionConfig(cg_steps=4))
_PPO = OuterConfig(optimizer="Adam", lr=1e-2, epochs=3)
_QUADRATICS = {"tasks": QuadraticTasks(), "model": MlpConfig(hidden=())}

CASES: dict[str, RunConfig] = {
    config.name: config
    for config in (
        _run("maml", "loop", maml(steps=2)),
        _run("maml-vmap", "vmap", maml(steps=2)),
        _run("maml-waves", "vmap", maml(lr=0.01, eval_steps=4), tasks=SinusoidTasks(), **_WAVES),
        _run("fomaml", "loop", fomaml(steps=2), model=Conv4Config(filters=6, downsample="pool")),
        _run("anil", "vmap", anil(steps=3)),
        _run("meta_sgd", "loop", meta_sgd(steps=2)),
        _run(
            "reptile",
            "loop",
            reptile(steps=4, batch=5, eval_steps=6),
            tasks=_glyphs(train_shots=3),
            outer=OuterConfig(optimizer="SGD", lr=1.0, schedule="linear"),
        ),
        _run("imaml", "loop", imaml(steps=4, cg_steps=3)),
        _run("imaml-waves", "vmap", imaml(lr=0.05, steps=4, damping=0.0), tasks=SinusoidTasks(), **_WAVES),
        _run("imaml_hf", "vmap", imaml_hf(steps=1, cg_steps=2)),
        _run("protonet", "vmap", protonet(), tasks=_glyphs(train_way=5)),
        _run("proto_maml", "loop", proto_maml(steps=2, scale=0.3), tasks=_glyphs(train_way=4)),
        _run("matching", "vmap", matching(scale=5.0), tasks=_glyphs(train_way=4)),
        _run("matching-context", "loop", matching(scale=5.0, context_steps=2), tasks=_glyphs(train_way=4)),
        _run("knn", "vmap", knn(neighbours=3, scale=0.5), tasks=_glyphs(train_way=4)),
        _run("r2d2", "vmap", r2d2(scale=4.0), tasks=_glyphs(train_way=4)),
        _run("r2d2-waves", "loop", r2d2(regularisation=0.1), tasks=SinusoidTasks(), **_WAVES),
        _run("nil", "vmap", nil(steps=3)),
        _run("multitask", "loop", multitask()),
        _run("multitask-heads", "vmap", multitask("task", steps=3)),
        _run(
            "label_words",
            "vmap",
            label_words(lr=0.05, steps=2, scale=0.2),
            tasks=TextTasks(store="intents", way=3, shots=1, queries=2, eval_queries=2),
            model=TransformerConfig.model_validate(transformer()),
        ),
        _run("lstm", "loop", lstm(width=12, layers=2)),
        _run("lstm-waves", "vmap", lstm(width=12), tasks=SinusoidTasks(), **_WAVES),
        _run("neural_process", "vmap", neural_process(width=12, likelihood=False)),
        _run("neural_process-waves", "vmap", neural_process(width=12), tasks=SinusoidTasks(), **_WAVES),
        _run("in_context", "vmap", in_context(width=8, attention_heads=2)),
        _run("in_context-waves", "loop", in_context(width=8, attention_heads=2), tasks=SinusoidTasks(), **_WAVES),
        _run("boil", "vmap", boil(steps=2)),
        _run("maml_pp", "vmap", maml_pp(steps=2, first_order_until=2, each_until=4)),
        _run("maml_pp-norms", "loop", maml_pp(steps=2, first_order_until=0, each_until=4, per_step=("norm",))),
        _run("cavia", "vmap", cavia(steps=2), model=Conv4Config(filters=6, context_size=4)),
        _run("cavia-waves", "loop", cavia(eval_steps=3), tasks=SinusoidTasks(), **_CONTEXT_WAVES),
        _run("weight_generator", "vmap", weight_generator(width=12), tasks=_glyphs(train_way=4)),
        _run("film", "loop", film(width=12), tasks=_glyphs(train_way=4)),
        _run("film-waves", "vmap", film(width=12), tasks=SinusoidTasks(), **_WAVES),
        _run("hyperparameters", "loop", hyperparameters(steps=2)),
        _run("learned_loss", "vmap", learned_loss(steps=2, width=8)),
        _run("learned_loss-waves", "loop", learned_loss(lr=0.01, width=8), tasks=SinusoidTasks(), **_WAVES),
        _run("reweight", "vmap", reweight(steps=2, width=8), tasks=_glyphs(label_noise=0.5)),
        _run("reweight-means", "loop", reweight(steps=2, head="prototypes", scale=0.3)),
        _run("darts", "vmap", darts(steps=2), model=MixedConfig(filters=4, cells=2)),
        _run("darts-chosen", "loop", darts(steps=1), model=MixedConfig(filters=4, nodes=1, chosen=("conv3x3",))),
        _run(
            "oml",
            "vmap",
            oml(steps=6, groups=("block2", "head"), eval_steps=6),
            tasks=_glyphs(stream=StreamOptions(classes=2, shots=3, queries=1, remember=4)),
            model=ConvNetConfig(filters=(4, 6)),
        ),
        _run(
            "anml",
            "loop",
            anml(steps=6, eval_steps=6),
            tasks=_glyphs(stream=StreamOptions(classes=2, shots=3, remember=4)),
            model=ConvNetConfig(filters=(4, 6), gate=(3,)),
        ),
        _run("learned_optimizer", "vmap", learned_optimizer(steps=6, window=2), **_QUADRATICS),
        _run("learned_optimizer-mlp", "loop", learned_optimizer(3, None, 4, rule=MlpRuleConfig(nominal=1.0))),
        _run("evolved_optimizer", "vmap", evolved_optimizer(steps=6, window=2, batch=4), **_QUADRATICS),
        _run("evolved_optimizer-es", "loop", evolved_optimizer(4, 2, 4, persistent=False)),
        _run("evolved_optimizer-waves", "vmap", evolved_optimizer(4, None), tasks=SinusoidTasks(), **_WAVES),
        _run("maml_rl", "vmap", maml_rl(steps=2), **_NAVIGATION),
        _run("maml_rl-region", "vmap", maml_rl(), **{**_NAVIGATION, "outer": _REGION}),
        _run("maml_rl-ppo", "vmap", maml_rl(clip=0.2), **{**_NAVIGATION, "outer": _PPO}),
        _run("fomaml_rl", "loop", fomaml_rl(gae=0.9), **_NAVIGATION),
        _run("anil_rl", "vmap", anil_rl(dependence=0.5), **_NAVIGATION),
        _run("rl2", "vmap", rl2(), **_TRIALS),
        _run("bn_adapt", "loop", bn_adapt(0.7), model=_RESNET),
        _run("tent", "vmap", tent(steps=2)),
        _run("tent-stream", "loop", tent(lr=0.01, steps=3, batch=3), model=_RESNET),
        _run("ttt", "loop", ttt(lr=0.01, steps=2), model=_RESNET.model_copy(update={"norm": "group"})),
        _run("deep_coral", "vmap", deep_coral(10.0), model=_RESNET),
        _run("dann", "loop", dann(0.5), model=_RESNET),
        _run("pretrain", "loop", pretrain(steps=4)),
        _run(
            "pretrain-waves",
            "loop",
            pretrain(lr=0.01, steps=4, groups=("all",), fresh=False),
            tasks=SinusoidTasks(),
            **_WAVES,
        ),
        _run("target_only", "vmap", target_only()),
        _run("joint", "loop", joint(alpha=0.3)),
        _run("fine_tuning", "loop", fine_tuning(steps=4, batch=4, unfreeze=("block4",), unfreeze_steps=2)),
        _run("fine_tuning-sgd", "vmap", fine_tuning(0.1, 4, 4, "sgd", 0.9, 1e-3, block_decay=0.5)),
        _run("linear_probe", "vmap", linear_probe(steps=4, batch=4)),
        _run("lp_ft", "loop", lp_ft(steps=3, probe_steps=2, batch=4)),
        _run("l2sp", "vmap", l2sp(steps=4, batch=4, optimizer="sgd", momentum=0.9)),
        _run("surgical", "loop", surgical(steps=4, batch=4)),
        _run("auto_rgn", "vmap", auto_rgn(steps=4, batch=4)),
        _run("merlin", "vmap", merlin(rho=0.5)),
        _run("merlin-steps", "loop", merlin(head="steps", steps=3)),
    )
}


@dataclass(frozen=True)
class Outcome:
    """Result of a golden run.

    Attributes:
        digest: sha256 of the meta-parameters; comparable on one machine only.
        norm: Euclidean norm of the averaged meta-parameters.
        scores: `protocol/metric` -> mean after each number of inner steps that is scored.
    """

    digest: str
    norm: float
    scores: dict[str, list[float]]


def case_in(name: str, folder: Path) -> RunConfig:
    """A golden run; texts, if it reads any, are written below `folder`."""
    config = CASES[name]
    if config.tasks.source == "texts":
        return config.model_copy(update={"tasks": TextTasks.model_validate(texts_in(folder))})
    return config


def run_case(name: str, folder: Path) -> Outcome:
    """Train a golden run below `folder`."""
    config = case_in(name, folder).model_copy(update={"checkpoint": CheckpointConfig(path=str(folder))})
    with mock.patch("distmeta.training.loop.keep_pictures", return_value=[]):  # drawing takes longer than training
        result = train(config, quiet=True)
    norm = global_norm(checkpoints.load(result.checkpoint).averaged)
    scores = {f"{score.protocol}/{score.metric}": list(score.mean) for score in result.scores}
    return Outcome(result.digest, norm, scores)
