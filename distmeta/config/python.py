"""Users' own networks, tasks, learners, estimators and objectives: `{kind: python, target: "nets.py:make_net"}`.

In a job file the function or class itself may stand in the field: `model=make_net`, or with options
`model=functools.partial(make_net, width=64)`. The configuration keeps the target, the options and a hash of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, JsonValue, Tag, field_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import Text
from distmeta.config.interaction import PolicyGradientConfig
from distmeta.core.code import hash_of_target, split_target, target_of
from distmeta.core.errors import UserError


class OwnCode(Frozen):
    """A function or class in a Python file of the user's.

    Attributes:
        target: `FILE.py:NAME`; the file is searched for from the current folder.
        options: Keyword arguments of each call.
        sha256: Hash of the file, which every process checks; None until the run starts.
    """

    target: Text
    options: dict[Text, JsonValue] = Field({}, max_length=1000)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")

    @field_validator("target")
    @classmethod
    def _names_a_file(cls, target: str) -> str:
        split_target(target)
        return target

    @classmethod
    def of(cls, value: Any) -> Any:
        """The section that a function or class stands for; any other value as it is.

        Raises:
            ValueError: It is not defined at the top level of a file, or its options are no plain values.
        """
        if isinstance(value, BaseModel | dict | str) or not callable(value):
            return value
        options: dict[str, Any] = {}
        while isinstance(value, partial):
            if value.args:
                raise ValueError("a partial with positional arguments; allowed: keyword arguments of plain values")
            options = {**value.keywords, **options}
            value = value.func
        return cls(target=target_of(value), options=options)


class PythonModel(OwnCode):
    """A network of the user's: a function (input_shape, num_outputs, **options) -> torch.nn.Module, or a `Backbone`.

    Attributes:
        head: Name of the last linear layer in the module; None finds it by its number of outputs.
    """

    kind: Literal["python"] = "python"
    head: Text | None = None
    needs_images: ClassVar[bool] = False
    takes_texts: ClassVar[bool] = True
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = True


class PythonTasks(OwnCode):
    """Tasks of the user's: a `TaskSource`, made by (seed, dtype, **options).

    Attributes:
        max_examples: Examples of the largest task, all roles together, so that a shard that is too large is refused
            before anything is built; tasks of more examples are refused. None: shards are checked when they are built.
    """

    source: Literal["python"] = "python"
    max_examples: int | None = Field(None, ge=1)
    has_classes: ClassVar[bool] = True
    has_images: ClassVar[bool] = True
    has_texts: ClassVar[bool] = True
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False


class PythonLearner(OwnCode):
    """A learner of the user's: a `Learner`, made by (backbone, **options)."""

    kind: Literal["python"] = "python"
    needs_classes: ClassVar[bool] = False
    needs_names: ClassVar[bool] = False
    is_stepwise: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    learns_inner: ClassVar[bool] = False
    proximal: ClassVar[float | None] = None
    fixes_steps: ClassVar[bool] = False
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    num_steps: ClassVar[int] = 1

    def with_steps(self, steps: int) -> Self:
        """The same: the learner sets its own steps."""
        return self


class PythonEstimator(OwnCode):
    """An estimator of the user's: an `Estimator`, made by (**options)."""

    kind: Literal["python"] = "python"
    needs_steps: ClassVar[bool] = False
    needs_proximal: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    reaches_steps: ClassVar[bool] = False
    weighs_each: ClassVar[bool] = False
    window: ClassVar[int | None] = None


class PythonObjective(OwnCode):
    """An objective of the user's: a function (forward, batch, **options) -> (loss, metrics)."""

    kind: Literal["python"] = "python"


def kind(value: Any) -> str:
    """Which class of objectives a value is of: names, or the one whose `kind` it has (the word stands in messages)."""
    if isinstance(value, str):
        return "name"
    found = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return found if isinstance(found, str) else "name"


ObjectiveName = Annotated[
    Annotated[Text, Tag("name")]
    | Annotated[PolicyGradientConfig, Tag("policy_gradient")]
    | Annotated[PythonObjective, Tag("python")],
    Discriminator(kind),
    BeforeValidator(PythonObjective.of),
]
"""An objective by name (`distmeta.methods.objectives`), by its settings, or one of the user's."""


def own_code(section: Any, path: str = "") -> Iterator[tuple[str, OwnCode]]:
    """All sections of users' own code in a configuration, with their paths."""
    if isinstance(section, OwnCode):
        yield path, section
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from own_code(getattr(section, name), f"{path}.{name}" if path else name)
    elif isinstance(section, tuple):
        for index, each in enumerate(section):
            yield from own_code(each, f"{path}.{index}")


def require_trust(config: BaseModel, where: str, *, trusted: bool) -> None:
    """Check that the caller agrees to run the code that a checkpoint names.

    Raises:
        UserError: It names some, and the caller does not.
    """
    for path, code in own_code(config):
        if not trusted:
            raise UserError(
                f"{path} is code: {code.target}" + (f" (sha256 {code.sha256})" if code.sha256 else ""),
                where=where,
                allowed="--trust-code (trust_code=True), if you know that file",
            )


def pinned(section: Any, path: str = "") -> Any:
    """A configuration whose sections of own code have the hash of their file.

    Raises:
        UserError: A file is missing.
    """
    if isinstance(section, OwnCode):
        sha256 = section.sha256 or hash_of_target(section.target, path)
        return section.model_copy(update={"sha256": sha256})
    if isinstance(section, BaseModel):
        fields = {name: getattr(section, name) for name in type(section).model_fields}
        changed = {name: pinned(value, f"{path}.{name}" if path else name) for name, value in fields.items()}
        return section.model_copy(update={name: value for name, value in changed.items() if value is not fields[name]})
    if isinstance(section, tuple) and any(isinstance(each, BaseModel) for each in section):
        return tuple(pinned(each, f"{path}.{index}") for index, each in enumerate(section))
    return section
