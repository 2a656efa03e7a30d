"""A transformer with tunable parts as a backbone: only these are meta-parameters, the rest is frozen and never travels.

    features = pool(transformer(inputs; frozen, tunable))         [B, L] token ids or [B, C, H, W] pixels -> [B, D]

Parts are those of He et al. 2022 (arXiv 2110.04366): LoRA, adapters, prefixes, IA3, BitFit, MAM, and all weights. Under
`vmap` the tasks' own parts go through the frozen weights together: one product of all tasks in each frozen layer, and
a batched one in each part. Deviations: no dropout; attention by its definition (fused kernels have no second
derivative).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from distmeta.config.models import TransformerConfig
from distmeta.config.petl import PetlPart
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params, TokenIds
from distmeta.models.base import Backbone, Frame
from distmeta.models.heads import init_heads, with_heads
from distmeta.models.petl.call import Call, running
from distmeta.models.petl.exchange import read_peft
from distmeta.models.petl.families import block_of, num_blocks
from distmeta.models.petl.frozen import shape_of
from distmeta.models.petl.load import load_network
from distmeta.models.petl.parts import PARTS, Own, Part, Shape
from distmeta.models.petl.recompute import recompute_blocks
from distmeta.models.petl.sites import divide, make_sites, padding_position, read_from_call, record_blocks
from distmeta.models.petl.texts import lay_out, row_width
from distmeta.models.petl.words import ALLOWED, Words, load_words
from distmeta.models.share import share

OUTSIDE = "outside"
"""Group of the parameters that belong to no block."""


class Transformer(Backbone):
    """A network of `transformers` with tunable parts.

    Args:
        config: The network and its parts.
        input_shape: Shape of one example: (L,) tokens at most, or (C, H, W) pixels.
        heads: Number of outputs by name of the head.
        dtype: Type of weights and parts.

    Attributes:
        shape: What parts know of the network.
        network: The network, whose frozen weights may be moved or partitioned, but not exchanged.

    Raises:
        UserError: The network or a part cannot be made.
    """

    isolates_tasks = True

    def __init__(
        self, config: TransformerConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        self._config, self._dtype, self.heads = config, dtype, dict(heads)
        frozen = self._frozen_dtype = torch.bfloat16 if config.frozen_dtype == "bfloat16" else dtype
        self.network = share(load_network(config.pretrained, config.architecture, dtype, frozen_dtype=frozen))
        divide(self.network)
        settings: Any = self.network.config  # what transformers knows of the network
        self._settings = settings
        self._accepted = frozenset(inspect.signature(type(self.network).forward).parameters)
        self.num_features = int(settings.hidden_size)
        # Keys of a prefix count as positions before the text, as in the paper's code.
        self._offset = 0 if self._is_of_pixels else sum(part.num_positions for part in config.petl)
        self._check_input(input_shape)
        sites = make_sites(self.network, dtype)
        self._parts: list[Part] = []
        self.tokens = None if self._is_of_pixels else TokenIds(int(settings.vocab_size), self._pad_id())
        self._is_decoder = self._find_causal()
        first = self._find_first_position()
        self._packs = first is not None
        self._first_position = (first or 0) + self._offset
        self._num_blocks = num_blocks(list(sites))
        heads_of_keys = getattr(settings, "num_key_value_heads", None) or settings.num_attention_heads
        size = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        self.shape = Shape(sites, self._num_blocks, settings.num_attention_heads, heads_of_keys, size)
        self._parts = self._make_parts(self.shape)
        names = [name for part in self._parts for name in part.makes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two parts have parameter '{twice}'", where="model.petl", allowed="one of each kind")
        read_from_call(self.network, {name for part in self._parts for name in part.makes if isinstance(part, Own)})
        if config.recompute:
            recompute_blocks(self.network)
        record_blocks(self.network)

    @override
    def init(self, seed: int) -> Params:
        """Parts by seed and name or from a folder of peft, heads as those of other networks."""
        params: Params = {}
        for part in self._parts:
            params |= part.init(seed, self._dtype)
        if self._config.init_from is not None:
            params |= read_peft(self, self._config.init_from, "model.init_from")
        rng = torch.Generator().manual_seed(mix(seed, "head"))
        params |= init_heads(self, seed, rng, self._dtype)
        return {name: params[name] for name in self.groups()["all"]}

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        self._move_to(inputs.device)
        if self.tokens is None:
            call = Call(params, taps=None if frame.taps is None else {})
            hidden = self._run(call, pixel_values=inputs.to(self._dtype))
            return self._scaled(self._tapped(call, frame, hidden, self._pool_patches))
        places = frame.places if self._packs else None
        texts = lay_out(inputs, self.tokens.pad_id, places, causal=self._is_decoder, dtype=self._dtype)
        call = Call(params, texts.mask, taps=None if frame.taps is None else {})
        positions = {"position_ids": texts.positions + self._first_position} if self._packs else {}
        hidden = self._run(call, input_ids=texts.ids, **positions)
        return self._scaled(self._tapped(call, frame, hidden, lambda states: texts.pool(states, self._config.pooling)))

    @override
    def words(self, where: str) -> Callable[[Tensor], Tensor]:
        """Rows of the output embedding, which is frozen: those of pre-training, even where part `full` tunes it."""
        config = self._config
        if not self._is_decoder or self.tokens is None:
            raise UserError("an encoder predicts no next word", where=where, allowed=ALLOWED)
        if config.pooling != "last" or config.normalise:
            what = "features that are no hidden states of the last token do not predict the next word"
            raise UserError(what, where=where, allowed="model.pooling 'last' and model.normalise false")
        weight = load_words(self.network, config.pretrained, config.architecture, self._frozen_dtype, where)
        return Words(weight, self._dtype)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body` (all parts), heads, kinds of parts (`lora`, ...), and blocks (`block0`, ..., `outside`)."""
        kinds: dict[str, tuple[str, ...]] = {}
        for part in self._parts:
            kinds[part.kind] = (*kinds.get(part.kind, ()), *part.makes)
        return with_heads(self, self._blocks(), **kinds)

    @override
    def blocks(self) -> tuple[str, ...]:
        """What is outside of blocks comes first: most of it is the embeddings."""
        names = self._blocks()
        return tuple(sorted(names, key=lambda name: -1 if name == OUTSIDE else int(name.removeprefix("block"))))

    def _blocks(self) -> dict[str, tuple[str, ...]]:
        """Names of parameters by block."""
        blocks: dict[str, tuple[str, ...]] = {}
        for name in (name for part in self._parts for name in part.makes):
            block = block_of(name)
            key = OUTSIDE if block is None else f"block{block}"
            blocks[key] = (*blocks.get(key, ()), name)
        return blocks

    @property
    def config(self) -> TransformerConfig:
        """The network and its parts."""
        return self._config

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and parts."""
        return self._dtype

    @property
    def parts(self) -> list[Part]:
        """The tunable parts."""
        return self._parts

    @property
    def frozen(self) -> dict[str, nn.Parameter]:
        """Weights that no part tunes, by name."""
        tuned = {name for part in self._parts for name in part.makes}
        return {name: weight for name, weight in self.network.named_parameters() if name not in tuned}

    @property
    def share_tuned(self) -> float:
        """Number of tunable parameters without heads, divided by the number of the network's weights."""
        tuned = sum(tensor.numel() for part in self._parts for tensor in part.init(0, self._dtype).values())
        return tuned / sum(math.prod(shape_of(weight)) for weight in self.network.parameters())

    @property
    def _is_of_pixels(self) -> bool:
        return self._config.inputs == "pixels"

    def _make_parts(self, shape: Shape) -> list[Part]:
        parts: list[Part] = []
        for position, config in enumerate(self._config.petl):
            where = f"model.petl.{position}"
            for single in config.parts():
                parts.append(self._make_part(single, shape, where))
        return parts

    def _make_part(self, config: PetlPart, shape: Shape, where: str) -> Part:
        if config.kind in PARTS:
            return PARTS[config.kind](config, shape, where)
        names = [name for name, _ in self.network.named_parameters()]
        if config.kind == "bitfit":
            names = [name for name in names if name.endswith(".bias")]
            if not names:
                raise UserError("the network has no biases", where=where, allowed="another kind of part")
        return Own(config.kind, names, self.network)

    def _run(self, call: Call, **inputs: Tensor) -> Tensor:
        """The last hidden states [B, L, D]."""
        for part in self._parts:
            part.begin(call)
        options = {"use_cache": False} if "use_cache" in self._accepted else {}
        with running(call):
            hidden: Tensor = self.network(**inputs, **options).last_hidden_state
        return hidden

    def _tapped(self, call: Call, frame: Frame, hidden: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """Pooled hidden states [B, D]; those of the blocks, if they were recorded, are taps."""
        for name, tensor in (call.taps or {}).items():
            frame.tap(name, pool(tensor))
        return pool(hidden)

    def _pool_patches(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0] if self._config.pooling == "cls" else hidden.mean(1)

    def _scaled(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features, dim=-1) if self._config.normalise else features

    def _find_causal(self) -> bool:
        """Whether tokens see only what comes before them."""
        if self._config.attention != "auto":
            return self._config.attention == "causal"
        return any(bool(module.is_causal) for module in self.network.modules() if hasattr(module, "is_causal"))

    def _find_first_position(self) -> int | None:
        """Position of a text's first token; None if the network does not work on texts laid end to end.

        Networks count from 0 or from behind the id of padding; what they compute for texts in rows tells.
        """
        if self.tokens is None or "position_ids" not in self._accepted:
            return None
        pad_id = self.tokens.pad_id
        token = min(id_ for id_ in range(3) if id_ != pad_id)
        ids = torch.full((2, 3), token)
        ids[0, 2] = pad_id
        rows = lay_out(ids, pad_id, None, causal=self._is_decoder, dtype=self._dtype)
        texts = lay_out(ids, pad_id, row_width(3), causal=self._is_decoder, dtype=self._dtype)
        tolerance = 1e-3 if self._config.frozen_dtype is None else 3e-2
        with torch.no_grad():
            expected = rows.pool(self._run(Call({}, rows.mask), input_ids=rows.ids), "mean")
            for first in (0, pad_id + 1):
                positions = texts.positions + first
                hidden = self._run(Call({}, texts.mask), input_ids=texts.ids, position_ids=positions)
                if (texts.pool(hidden, "mean") - expected).norm() <= tolerance * expected.norm():
                    return first
        return None

    def _check_input(self, shape: tuple[int, ...]) -> None:
        """Check examples against what the network takes."""
        settings = self._settings
        if self._is_of_pixels:
            size = getattr(settings, "image_size", None)
            sides = (size, size) if isinstance(size, int) else tuple(size or ())
            expected = (getattr(settings, "num_channels", 3), *sides)
            if len(shape) != 3 or shape != expected:
                what = f"the network takes images {list(expected)}, but the tasks have {list(shape)}"
                raise UserError(what, where="model", allowed="image_size and num_channels in model.architecture")
            return
        if len(shape) != 1:
            what = f"the network takes token ids, but an example of the tasks is {list(shape)}"
            raise UserError(what, where="model.kind", allowed="tasks.source 'texts', or model.inputs 'pixels'")
        longest = getattr(settings, "max_position_embeddings", None)
        window = getattr(settings, "sliding_window", None)
        padding = padding_position(self.network)
        taken = self._offset + (0 if padding is None else padding + 1)
        for limit in (longest, window):
            if limit is not None and shape[0] > limit - taken:
                what = f"the network takes {limit - taken} tokens, but the tasks have up to {shape[0]}"
                if self._offset:
                    what += f" (its prefix has {self._offset} of its positions)"
                raise UserError(what, where="tasks.buckets", allowed=f"at most {limit - taken}")

    def _pad_id(self) -> int:
        if self._config.pad_id is not None:
            return self._config.pad_id
        pad = getattr(self._settings, "pad_token_id", None)
        return 0 if pad is None or pad < 0 else int(pad)

    def _move_to(self, device: torch.device) -> None:
        weight = next(self.network.parameters())
        if weight.device != device and not hasattr(weight, "ds_status"):
            self.network.to(device)
