"""Which parts of a method fit together and fit the tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    Conv4Config,
    DisplacementConfig,
    EvaluateConfig,
    GlyphTasks,
    GradientConfig,
    Phase,
    PrototypeConfig,
    RunConfig,
    Term,
)
from distmeta.core.errors import UserError
from distmeta.core.types import QUERY, SOURCE, SUPPORT, Batch
from distmeta.methods import pretrain, protonet
from distmeta.methods.build import Algorithm, build_algorithm, protocol_of
from distmeta.tasks.base import TaskSignature

from ...adapting import adapt, predict

WAY, CLASSES = 5, 11
SIGNATURE = TaskSignature((1, 16, 16), WAY, {SUPPORT: WAY, QUERY: WAY, SOURCE: CLASSES}, "cross_entropy")
JOINT = Term(role=SOURCE, at="meta")
SOURCE_HEAD = Term(role=SOURCE, head="source", at="meta")


def build(algorithm: AlgorithmConfig, norm: str = "batch") -> Algorithm:
    model = Conv4Config.model_validate({"filters": 4, "norm": norm})
    config = RunConfig(name="x", tasks=GlyphTasks(size=16), model=model, algorithm=algorithm)
    return build_algorithm(config, SIGNATURE)


@pytest.mark.parametrize(
    ("algorithm", "train", "test", "heads"),
    [
        (AlgorithmConfig(), (SUPPORT, QUERY), (SUPPORT, QUERY), {"head": WAY}),
        (pretrain(), (SOURCE,), (SUPPORT, QUERY), {"head": CLASSES}),
        (
            AlgorithmConfig(terms=(Term(), SOURCE_HEAD)),
            (SUPPORT, QUERY, SOURCE),
            (SUPPORT, QUERY),
            {"head": WAY, "source": CLASSES},
        ),
        (protonet(), (SUPPORT, QUERY), (SUPPORT, QUERY), {"head": WAY}),
    ],
    ids=["maml", "pretrain", "two heads", "protonet"],
)
def test_tasks_are_built_with_the_roles_that_are_read_and_networks_with_the_heads(
    algorithm: AlgorithmConfig, train: tuple[str, ...], test: tuple[str, ...], heads: dict[str, int]
) -> None:
    built = build(algorithm)
    assert (built.roles("train"), built.roles("val"), built.roles("test")) == (train, test, test)
    assert built.learner.backbone.heads == heads
    assert [term.role for term in built.scored] == [QUERY]


def test_the_protocol_of_a_run_is_that_of_its_training() -> None:
    for norm, protocol in (("batch", "transductive"), ("support", "inductive")):
        built = build(AlgorithmConfig(), norm)
        assert protocol_of(built) == protocol
        assert {name: each.backbone.protocol for name, each in built.evaluators.items()} == {
            "transductive": "transductive",
            "inductive": "inductive",
        }


def test_a_body_without_a_head_can_be_fine_tuned_at_evaluation() -> None:
    tuned = EvaluateConfig(learner=GradientConfig(phases=(Phase(groups=("head",), steps=3),), head="fresh"))
    built = build(AlgorithmConfig(learner=PrototypeConfig(), evaluate=tuned), "support")
    meta, evaluator = built.learner.init(0), built.evaluators["inductive"]
    assert not any(name.startswith("head") for name in meta)
    support = Batch(torch.rand(10, 1, 16, 16), torch.arange(10) % WAY)
    fast = adapt(evaluator, meta, support)
    assert bool(fast.moved["head.weight"].any())
    assert predict(evaluator, meta, fast, support, support.inputs).shape == (10, WAY)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two numbers of outputs": (
        {"terms": (Term(), JOINT)},
        r"^algorithm\.terms\.1\.head: role 'source' needs 11 outputs, but head 'head' has 5 for algorithm\.terms\.0; ",
    ),
    "an inner step through a head of other outputs": (
        {"learner": GradientConfig(phases=(Phase(), Phase(role=SOURCE)))},
        r"^algorithm\.learner\.phases\.1\.head: role 'source' needs 11 outputs, but head 'head' has 5 for ",
    ),
    "joint training of a head that evaluation starts from": (
        {"terms": (JOINT,)},
        r"^algorithm\.learner: evaluation needs parameter 'head\.weight' \[5, 4\], but training has it as \[11, 4\]; "
        r"allowed: head 'fresh'",
    ),
    "a head that is not trained": (
        {"learner": PrototypeConfig(), "evaluate": EvaluateConfig(learner=GradientConfig())},
        r"^algorithm\.evaluate\.learner: evaluation needs parameter 'head\.weight' \[5, 4\], but training does not",
    ),
    "rates that are not trained": (
        {"evaluate": EvaluateConfig(learner=GradientConfig(learned_lr=True))},
        r"^algorithm\.evaluate\.learner: evaluation needs parameter 'inner_lr\.\S+' .* but training does not have it",
    ),
    "an unknown group of zeros": (
        {"learner": GradientConfig(zeros=("contxt",))},
        r"^algorithm\.learner\.zeros: unknown parameter group 'contxt'; allowed: ",
    ),
    "context parameters of a network without": (
        {"learner": GradientConfig(phases=(Phase(groups=("context",)),))},
        r"^algorithm\.learner\.phases\.0\.groups: unknown parameter group 'context'; allowed: ",
    ),
    "an unknown role of a term": (
        {"terms": (Term(role="sorce"),)},
        r"^algorithm\.terms\.0\.role: the tasks have no role 'sorce'; allowed: support, query, source$",
    ),
    "an unknown role of a phase": (
        {"learner": GradientConfig(phases=(Phase(role="unlabelled"),))},
        r"^algorithm\.learner\.phases\.0\.role: the tasks have no role 'unlabelled'; allowed: support, query, source$",
    ),
    "an unknown role at evaluation": (
        {"evaluate": EvaluateConfig(learner=GradientConfig(phases=(Phase(role="unlabelled"),)))},
        r"^algorithm\.evaluate\.learner: the tasks have no role 'unlabelled'",
    ),
    "an unknown objective": (
        {"terms": (Term(), Term(objective="hinge"))},
        r"^algorithm\.terms\.1\.objective: unknown objective 'hinge'",
    ),
    "joint training without a head": (
        {"learner": PrototypeConfig(), "terms": (Term(), SOURCE_HEAD)},
        r"^algorithm\.terms\.1\.at: 'source' is scored without adaptation, but the learner has no head 'source'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_do_not_fit_are_refused(name: str) -> None:
    parts, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        build(AlgorithmConfig(**parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"estimator": DisplacementConfig(), "terms": (JOINT,)}, "there is no adaptation for estimator.kind 'displ"),
        ({"learner": PrototypeConfig(), "terms": (Term(at="each"),)}, "a term at 'each' inner step needs one"),
        ({"learner": GradientConfig(phases=(Phase(steps=0),)), "terms": (Term(at="each"),)}, "'each' inner step"),
        ({"learner": PrototypeConfig(), "evaluate": EvaluateConfig(steps=3)}, "evaluate.steps needs a learner with"),
        ({"learner": GradientConfig(learned_lr=True), "estimator": DisplacementConfig()}, "needs the exact gradient"),
        ({"estimator": BackpropConfig(each_until=5)}, r"weighs terms at 'each' inner step, but there is none"),
        (
            {"learner": GradientConfig(learned_lr="layer_step"), "evaluate": EvaluateConfig(steps=3)},
            "a rate for each inner step of training, so evaluate.steps cannot",
        ),
        ({"terms": ()}, "at least 1 item"),
    ],
)
def test_configurations_that_cannot_work_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AlgorithmConfig(**parts)


def test_first_order_does_not_go_over_to_second() -> None:
    with pytest.raises(ValidationError, match="goes over to order 2, but order is 1"):
        BackpropConfig(order=1, first_order_until=3)


def test_rates_by_step_leave_another_learner_at_evaluation_alone() -> None:
    evaluate = EvaluateConfig(learner=PrototypeConfig())
    assert AlgorithmConfig(learner=GradientConfig(learned_lr="layer_step"), evaluate=evaluate).evaluate == evaluate


def test_steps_and_another_learner_at_evaluation_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="steps and learner exclude each other"):
        EvaluateConfig(steps=3, learner=GradientConfig())
