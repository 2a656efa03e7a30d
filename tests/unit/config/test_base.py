from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from distmeta.config import (
    CheetahTasks,
    Conv4Config,
    DatasetTasks,
    GlyphTasks,
    MlpConfig,
    NavigationTasks,
    OuterConfig,
    PythonTasks,
    QuadraticTasks,
    RunConfig,
    ShiftedTasks,
    SinusoidTasks,
    StoreTasks,
    TableTasks,
    TextTasks,
    TextTransferTasks,
    TransferTasks,
    VectorTasks,
)
from distmeta.config.base import allowed_types, annotation_of, discriminator_of, section_for, to_user_error


def error_of(make: Callable[[], object]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        make()
    return caught.value


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"tasks": {"source": "images", "wy": 3}}, "tasks.wy: unknown field 'wy'; allowed: did you mean 'way'?"),
        (
            {"tasks": {"source": "imags"}},
            "tasks: unknown source 'imags'; allowed: did you mean 'images'? (cheetah, dataset, glyphs, images",
        ),
        ({"tasks": {"way": 5}}, "tasks: the field 'source' is missing; allowed: images, glyphs, sinusoid"),
        (
            {"algorithm": {"terms": [{"objective": {"kind": "policy_gradient", "discount": 2}}]}},
            "algorithm.terms.0.objective.discount: 2 is not valid; allowed: less than or equal to 1",
        ),
        (
            {"algorithm": {"terms": [{"objective": {"kind": "policy"}}]}},
            "algorithm.terms.0.objective: unknown kind 'policy'; allowed: did you mean 'policy_gradient'?",
        ),
        ({"outer": {"schedule": "cos"}}, "outer.schedule: unknown value 'cos'; allowed: did you mean 'cosine'?"),
        ({"outer": {"lr": float("nan")}}, "outer.lr: nan is not valid; allowed: a finite number"),
        (
            {"tasks": {"source": "images", "train_way": "x"}},
            "tasks.train_way: 'x' is not valid; allowed: an integer or null",
        ),
        ({"train": 7}, "train: 7 is not valid; allowed: a mapping of fields"),
        (
            {"algorithm": {"learner": {"kind": "gradient", "phases": [{"lr": 0.1}, {"step": 2}]}}},
            "algorithm.learner.phases.1.step: unknown field 'step'; allowed: did you mean 'steps'?",
        ),
        (
            {"algorithm": {"learner": {"kind": "gradient", "phases": []}}},
            "algorithm.learner.phases: [] is not valid; allowed: 1 or more elements",
        ),
        (
            {"outer": {"options": {"betas": "x"}}},
            "outer.options.betas: 'x' is not valid; allowed: a boolean or an integer or a number or a list",
        ),
    ],
)
def test_an_error_says_what_is_wrong_where_and_what_is_allowed(values: dict[str, object], line: str) -> None:
    error = error_of(lambda: RunConfig.model_validate({"name": "x", **values}))
    assert str(to_user_error(error, RunConfig)).startswith(line)


def test_an_unknown_field_is_reported_before_other_problems() -> None:
    error = error_of(lambda: RunConfig.model_validate({"nme": "x"}))
    assert str(to_user_error(error, RunConfig, source="a.yaml")).startswith(
        "a.yaml: nme: unknown field 'nme'; allowed: did you"
    )


def test_an_error_of_a_single_section_names_its_class() -> None:
    error = error_of(lambda: OuterConfig(lr=-1))
    assert (
        str(to_user_error(error, source="job.py")) == "job.py: OuterConfig.lr: -1 is not valid; allowed: greater than 0"
    )


def test_a_long_value_is_shortened() -> None:
    error = error_of(lambda: OuterConfig.model_validate({"lr": "x" * 1000}))
    assert len(str(to_user_error(error))) < 150


def test_checks_of_several_sections_keep_their_message() -> None:
    error = error_of(lambda: RunConfig(name="x", tasks=SinusoidTasks()))
    assert str(to_user_error(error)).startswith("model.kind 'conv4' needs images")
    error = error_of(lambda: RunConfig(name="x", tasks=TableTasks(table="waves.csv")))
    assert "tasks.source 'table' has numbers; use 'mlp'" in str(to_user_error(error))


def test_types_and_discriminators_of_unions() -> None:
    union = RunConfig.model_fields["tasks"].annotation
    assert allowed_types(union) == [
        StoreTasks,
        GlyphTasks,
        SinusoidTasks,
        VectorTasks,
        TextTasks,
        TableTasks,
        QuadraticTasks,
        DatasetTasks,
        TransferTasks,
        TextTransferTasks,
        ShiftedTasks,
        NavigationTasks,
        CheetahTasks,
        PythonTasks,
    ]
    assert allowed_types(int | None) == [int]
    assert discriminator_of(MlpConfig) == ("kind", "mlp")
    assert discriminator_of(OuterConfig) is None
    assert section_for(union, {"source": "glyphs"}) is GlyphTasks
    assert section_for(union, {"source": "?"}) is None


def test_annotations_of_fields_elements_and_values() -> None:
    assert annotation_of(Conv4Config, "nothing") is None
    assert annotation_of(tuple[int, ...], "4") is int
    assert annotation_of(tuple[int, str], 1) is str
    assert annotation_of(dict[str, float], "any") is float
    assert annotation_of(int, "x") is None
