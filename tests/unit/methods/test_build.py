"""Which parts of a method fit together and fit the tasks."""

from __future__ import annotations

from dataclasses import replace
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
    HyperparametersConfig,
    ImplicitConfig,
    InContextConfig,
    InnerLossConfig,
    LstmConfig,
    MlpConfig,
    NeuralProcessConfig,
    NewtonConfig,
    Phase,
    PrototypeConfig,
    RunConfig,
    SinusoidTasks,
    Term,
)
from distmeta.core.errors import UserError
from distmeta.core.types import QUERY, ROTATION, SOURCE, SUPPORT, Batch
from distmeta.methods import fine_tuning, pretrain, protonet
from distmeta.methods.build import Algorithm, build_algorithm, protocol_of
from distmeta.tasks.base import TaskSignature

from ...adapting import adapt, predict

WAY, CLASSES = 5, 11
SIGNATURE = TaskSignature((1, 16, 16), WAY, {SUPPORT: WAY, QUERY: WAY, SOURCE: CLASSES}, "cross_entropy")
JOINT = Term(role=SOURCE, at="meta")
SOURCE_HEAD = Term(role=SOURCE, head="source", at="meta")
FRESH_SOURCE = GradientConfig(phases=(Phase(head="source"),), head="fresh")


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


@pytest.mark.parametrize(
    ("algorithm", "head"),
    [
        (AlgorithmConfig(), "head"),
        (pretrain(), "head"),
        (AlgorithmConfig(terms=(SOURCE_HEAD, Term(head="aux"))), "aux"),
        (AlgorithmConfig(terms=(Term(at="meta"), Term(head="aux", at="each"))), "aux"),
        (AlgorithmConfig(terms=(Term(), Term(head="aux")), evaluate=EvaluateConfig(head="aux")), "aux"),
        (AlgorithmConfig(terms=(SOURCE_HEAD,), learner=FRESH_SOURCE), "source"),
    ],
)
def test_queries_are_scored_through_the_head_of_evaluation(algorithm: AlgorithmConfig, head: str) -> None:
    built = build(algorithm)
    assert [term.head for term in built.scored] == [built.eval_head] == [head]
    assert {evaluator.backbone.heads[head] for evaluator in built.evaluators.values()} == {WAY}


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


def test_a_body_that_was_trained_on_turned_images_alone_gets_a_head_at_evaluation() -> None:
    signature = replace(SIGNATURE, train_outputs={**SIGNATURE.train_outputs, ROTATION: 4})
    config = RunConfig(
        name="x",
        tasks=GlyphTasks(size=16),
        model=Conv4Config(filters=4),
        algorithm=fine_tuning(pretraining="rotation", steps=3),
    )
    built = build_algorithm(config, signature)
    assert built.learner.backbone.heads == {"rotation": 4}
    assert (built.roles("train"), built.roles("test")) == ((ROTATION,), (SUPPORT, QUERY))
    assert {evaluator.backbone.heads["head"] for evaluator in built.evaluators.values()} == {WAY}


def test_evaluation_scores_further_terms_and_builds_their_roles() -> None:
    further = EvaluateConfig(terms=(Term(role=SUPPORT, objective="entropy", weight=0.0),))
    built = build(AlgorithmConfig(learner=GradientConfig(phases=(Phase(steps=0),)), evaluate=further))
    assert [(term.role, term.weight) for term in built.scored] == [(QUERY, 1.0), (SUPPORT, 0.0)]
    assert built.eval_roles == (SUPPORT, QUERY)


def test_the_distribution_of_a_regressor_is_read_by_its_objective_alone() -> None:
    signature = TaskSignature((3,), 2, {SUPPORT: 2, QUERY: 2}, "mse")

    def built(objective: str | None) -> Algorithm:
        algorithm = AlgorithmConfig(
            learner=NeuralProcessConfig(), terms=(Term(head="distribution", objective=objective),)
        )
        tasks = SinusoidTasks()
        config = RunConfig(name="x", tasks=tasks, model=MlpConfig(), algorithm=algorithm)
        return build_algorithm(config, signature)

    assert built("gaussian").terms[0].head == "distribution"
    refusal = (
        r"^algorithm\.terms\.0\.objective: head 'distribution' does not fit objective 'mse'; allowed: gaussian, or"
    )
    with pytest.raises(UserError, match=refusal):
        built(None)


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
        r"^algorithm\.evaluate\.learner\.phases\.0\.role: the tasks have no role 'unlabelled'",
    ),
    "an unknown head of evaluation": (
        {"terms": (Term(), SOURCE_HEAD), "evaluate": EvaluateConfig(head="sorce")},
        r"^algorithm\.evaluate\.head: evaluation scores queries through head 'sorce', which training does not have; "
        r"allowed: did you mean 'source'\? \(head, source\)$",
    ),
    "a head of evaluation with the outputs of training": (
        {"terms": (Term(), SOURCE_HEAD), "evaluate": EvaluateConfig(head="source")},
        r"^algorithm\.learner: evaluation needs parameter 'source\.weight' \[5, 4\], but training has it as \[11, 4\]",
    ),
    "inner steps of evaluation through a head of other outputs": (
        {"evaluate": EvaluateConfig(learner=GradientConfig(phases=(Phase(), Phase(role=SOURCE))))},
        r"^algorithm\.evaluate\.learner\.phases\.1\.head: role 'source' needs 11 outputs, but head 'head' has 5 for ",
    ),
    "an unknown objective": (
        {"terms": (Term(), Term(objective="hinge"))},
        r"^algorithm\.terms\.1\.objective: unknown objective 'hinge'",
    ),
    "a head that a learner with its own does not have": (
        {"learner": LstmConfig(), "terms": (Term(), Term(role=SUPPORT, head="sequense"))},
        r"^algorithm\.terms\.1\.head: the learner has no head 'sequense'; allowed: did you mean 'sequence'\?",
    ),
    "predictions along the support set for queries": (
        {"learner": LstmConfig(), "terms": (Term(head="sequence"),)},
        r"^algorithm\.terms\.0\.role: head 'sequence' has no outputs for role 'query'; allowed: support$",
    ),
    "the distribution of a classifier": (
        {"learner": NeuralProcessConfig(), "terms": (Term(head="distribution", objective="gaussian"),)},
        r"^algorithm\.terms\.0\.head: the learner has no head 'distribution'; allowed: head$",
    ),
    "joint training of a black box": (
        {"learner": InContextConfig(), "terms": (JOINT,)},
        r"^algorithm\.terms\.0\.at: 'source' is scored without adaptation, but the learner has no head 'head'",
    ),
    "an unknown role of what evaluation scores": (
        {"evaluate": EvaluateConfig(terms=(Term(role="outside"),))},
        r"^algorithm\.evaluate\.terms\.0\.role: the tasks have no role 'outside'; allowed: support, query, source$",
    ),
    "a role of other outputs in what evaluation scores": (
        {"evaluate": EvaluateConfig(terms=(Term(role=SOURCE),))},
        r"^algorithm\.evaluate\.terms\.0\.role: role 'source' has 11 outputs, but queries have 5; allowed: query, supp",
    ),
    "an unknown head in what evaluation scores": (
        {"evaluate": EvaluateConfig(terms=(Term(head="source"),))},
        r"^algorithm\.evaluate\.terms\.0\.head: no head 'source'; allowed: head$",
    ),
    "unknown group of hyperparameters": (
        {"learner": GradientConfig(inner=(HyperparametersConfig(groups=("bdoy",)),))},
        r"^algorithm\.learner\.inner\.0\.groups: unknown parameter group 'bdoy'",
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
        (
            {"learner": PrototypeConfig(), "evaluate": EvaluateConfig(stream="after")},
            "evaluate.stream 'after' scores a",
        ),
        ({"terms": ({"reverse": 0.5},)}, "reverse 0.5 needs a term at 'meta', not at 'last'"),
        ({"learner": GradientConfig(phases=(Phase(steps=0),)), "terms": (Term(at="each"),)}, "'each' inner step"),
        ({"learner": PrototypeConfig(), "evaluate": EvaluateConfig(steps=3)}, "evaluate.steps needs a learner with"),
        (
            {"learner": GradientConfig(learned_lr=True), "estimator": DisplacementConfig()},
            "get no signal from this estimator",
        ),
        (
            {"learner": GradientConfig(inner=(InnerLossConfig(),)), "estimator": DisplacementConfig()},
            "learner.learned_lr, learner.per_step, learner.inner",
        ),
        ({"learner": {"kind": "gradient", "inner": [{"kind": "loss"}] * 2}}, "kind 'loss' occurs 2 times"),
        ({"estimator": BackpropConfig(each_until=5)}, r"weighs terms at 'each' inner step, but there is none"),
        (
            {"learner": GradientConfig(learned_lr="layer_step"), "evaluate": EvaluateConfig(steps=3)},
            "values for each inner step of training, so evaluate.steps cannot",
        ),
        ({"terms": ()}, "at least 1 item"),
        ({"estimator": ImplicitConfig()}, "'implicit' needs an inner problem with a proximal term"),
        ({"estimator": ImplicitConfig(), "learner": PrototypeConfig()}, "'implicit' needs an inner problem"),
        ({"estimator": ImplicitConfig(), "learner": NewtonConfig(), "terms": (Term(at="each"),)}, "the way to the sol"),
        ({"estimator": ImplicitConfig(), "learner": NewtonConfig(), "terms": (JOINT,)}, "there is no adaptation"),
        ({"learner": InContextConfig(), "evaluate": EvaluateConfig(steps=3)}, "evaluate.steps needs a learner with"),
    ],
)
def test_configurations_that_cannot_work_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AlgorithmConfig(**parts)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"l2sp": 0.0}, {}),
        ({"steps": 0}, {}),
        ({"batch": 2}, {}),
        ({"optimizer": "adam"}, {}),
        ({"rates": {"head": 0.5}}, {}),
        ({}, {"learned_lr": True}),
        ({}, {"head": "fresh"}),
        ({}, {"head": "prototypes"}),
        ({}, {"inner": (InnerLossConfig(),)}),
    ],
)
def test_a_gradient_learner_is_proximal_if_all_its_steps_solve_one_problem(
    changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    phase = {"l2sp": 2.0, "lr": 0.1}
    assert GradientConfig.model_validate({"phases": [phase]}).proximal == 2.0
    assert GradientConfig.model_validate({"phases": [phase | {"rates": {"head": 0.1}}]}).proximal == 2.0
    assert GradientConfig.model_validate({"phases": [phase | changes], **settings}).proximal is None
    assert GradientConfig.model_validate({"phases": [phase, phase]}).proximal is None


def test_the_exact_gradient_through_newton_steps_is_refused() -> None:
    with pytest.raises(UserError, match="through Newton steps needs third derivatives"):
        build(AlgorithmConfig(learner=NewtonConfig()))
    build(AlgorithmConfig(learner=NewtonConfig(), estimator=BackpropConfig(order=1)))
    build(AlgorithmConfig(learner=NewtonConfig(), estimator=ImplicitConfig()))


def test_a_parameter_group_of_newton_steps_is_named_where_it_stands() -> None:
    with pytest.raises(UserError, match="unknown parameter group 'tail'") as refused:
        build(AlgorithmConfig(learner=NewtonConfig(groups=("tail",)), estimator=ImplicitConfig()))
    assert refused.value.where == "algorithm.learner.groups"


def test_first_order_does_not_go_over_to_second() -> None:
    with pytest.raises(ValidationError, match="goes over to order 2, but order is 1"):
        BackpropConfig(order=1, first_order_until=3)


def test_rates_by_step_leave_another_learner_at_evaluation_alone() -> None:
    evaluate = EvaluateConfig(learner=PrototypeConfig())
    assert AlgorithmConfig(learner=GradientConfig(learned_lr="layer_step"), evaluate=evaluate).evaluate == evaluate


def test_steps_and_another_learner_at_evaluation_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="steps and learner exclude each other"):
        EvaluateConfig(steps=3, learner=GradientConfig())
