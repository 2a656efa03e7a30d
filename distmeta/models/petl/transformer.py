"""A transformer with tunable parts as a backbone: only these are meta-parameters, the rest is frozen and never travels.

    features = pool(transformer(inputs; frozen, tunable))         [B, L] token ids or [B, C, H, W] pixels -> [B, D]

Parts are those of He et al. 2022 (arXiv 2110.04366): LoRA, adapters, prefixes, IA3, BitFit, MAM, and all weights. Under
`vmap` the tasks' own parts go through the frozen weights together: one product of all tasks in each frozen layer, and
a batched one in each part. Deviations: no dropout; attention by its definition (fused kernels have no second
derivative).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from distmeta.config.models import TransformerConfig
from distmeta.config.petl import MamConfig, PetlPart, PrefixConfig
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params, TokenIds
from distmeta.models.base import Backbone, Frame
from distmeta.models.heads import init_heads, with_heads
from distmeta.models.petl.call import Call, running
from distmeta.models.petl.exchange import read_peft
from distmeta.models.petl.families import block_of, num_blocks
from distmeta.models.petl.load import load_network
from distmeta.models.petl.parts import PARTS, Own, Part, Shape
from distmeta.models.petl.sites import make_sites, padding_position, read_from_call
from distmeta.models.share import share


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

    def __init__(
        self, config: TransformerConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        self._config, self._dtype, self.heads = config, dtype, dict(heads)
        self.network = share(load_network(config.pretrained, config.architecture, dtype))
        settings: Any = self.network.config  # what transformers knows of the network
        self._settings = settings
        self.num_features = int(settings.hidden_size)
        self._offset = 0 if self._is_of_pixels else sum(map(_positions_of, config.petl))
        self._check_input(input_shape)
        sites = make_sites(self.network)
        self._num_blocks = num_blocks(list(sites))
        heads_of_keys = getattr(settings, "num_key_value_heads", None) or settings.num_attention_heads
        size = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        self.shape = Shape(sites, self._num_blocks, settings.num_attention_heads, heads_of_keys, size)
        self._parts = self._make_parts(self.shape)
        names = [name for part in self._parts for name in part.makes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two parts have parameter '{twice}'", where="model.petl", allowed="one of each kind")
        read_from_call(self.network, {name for part in self._parts for name in part.makes if isinstance(part, Own)})
        self.tokens = None if self._is_of_pixels else TokenIds(int(settings.vocab_size), self._pad_id())

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
        call = Call(params)
        keep = None if self.tokens is None else inputs != self.tokens.pad_id
        call.mask = None if keep is None else self._mask(keep)
        for part in self._parts:
            part.begin(call)
        with running(call):
            hidden = self._hidden(inputs)
        return self._pooled(hidden, keep)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body` (all parts), heads, kinds of parts (`lora`, ...), and blocks (`block0`, ..., `outside`)."""
        kinds: dict[str, tuple[str, ...]] = {}
        blocks: dict[str, tuple[str, ...]] = {}
        for part in self._parts:
            kinds[part.kind] = (*kinds.get(part.kind, ()), *part.makes)
            for name in part.makes:
                block = block_of(name)
                key = "outside" if block is None else f"block{block}"
                blocks[key] = (*blocks.get(key, ()), name)
        return with_heads(self, blocks, **kinds)

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
        return tuned / sum(weight.numel() for weight in self.network.parameters())

    @property
    def _is_of_pixels(self) -> bool:
        return self._config.inputs == "pixels"

    def _make_parts(self, shape: Shape) -> list[Part]:
        parts: list[Part] = []
        for position, config in enumerate(self._config.petl):
            where = f"model.petl.{position}"
            for single in config.parts() if isinstance(config, MamConfig) else (config,):
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

    def _hidden(self, inputs: Tensor) -> Tensor:
        """The last hidden states [B, L, D]."""
        options: dict[str, Any] = {}
        if self._is_of_pixels:
            return self.network(pixel_values=inputs.to(self._dtype)).last_hidden_state  # type: ignore[no-any-return]
        if self._offset and self._takes("position_ids"):
            options["position_ids"] = self._positions(inputs)
        if self._takes("use_cache"):
            options["use_cache"] = False
        return self.network(input_ids=inputs, **options).last_hidden_state  # type: ignore[no-any-return]

    def _positions(self, inputs: Tensor) -> Tensor:
        """Positions of tokens: keys of a prefix count as positions before the text, as in the paper's code."""
        padding = padding_position(self.network)
        if padding is None:
            return torch.arange(inputs.shape[-1], device=inputs.device)[None] + self._offset
        is_text = (inputs != padding).long()
        return (is_text.cumsum(-1) + self._offset) * is_text + padding

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(type(self.network).forward).parameters

    def _mask(self, keep: Tensor) -> Tensor:
        """What is added to attention logits: [B, 1, 1, L], or [B, 1, L, L] for a decoder."""
        seen = keep[:, None, None, :]
        if self._is_decoder:
            length = keep.shape[-1]
            seen = seen & torch.ones(length, length, dtype=torch.bool, device=keep.device).tril()
        zero = torch.zeros((), dtype=self._dtype, device=keep.device)
        return torch.where(seen, zero, torch.finfo(self._dtype).min)

    def _pooled(self, hidden: Tensor, keep: Tensor | None) -> Tensor:
        pooling = self._config.pooling
        if pooling == "cls":
            pooled = hidden[:, 0]
        elif keep is None:
            pooled = hidden.mean(1)
        elif pooling == "mean":
            weights = keep.to(hidden.dtype)[..., None]
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        else:
            positions = torch.arange(keep.shape[-1], device=keep.device)
            last = torch.where(keep, positions, 0).amax(-1)
            pooled = (hidden * (positions == last[:, None]).to(hidden.dtype)[..., None]).sum(1)
        return nn.functional.normalize(pooled, dim=-1) if self._config.normalise else pooled

    @property
    def _is_decoder(self) -> bool:
        """Whether tokens see only what comes before them."""
        config = self._config.attention
        if config != "auto":
            return config == "causal"
        layers = [module for module in self.network.modules() if hasattr(module, "is_causal")]
        return any(bool(layer.is_causal) for layer in layers)

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


def _positions_of(part: PetlPart) -> int:
    """Positions before the text that a part has: keys that share the softmax of the text."""
    return part.length if isinstance(part, PrefixConfig | MamConfig) and not part.gate else 0
