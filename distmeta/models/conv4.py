"""The four-block convolutional network of few-shot learning (Vinyals et al. 2016; Finn et al. 2017).

A block is a 3x3 convolution, batch norm and ReLU. `stride`: convolutions of stride 2 and global average pooling, as in
the MAML paper on Omniglot. `pool`: 2x2 max pooling after every block, then flattening.

Batch norm has no running statistics. In `batch` mode it uses the statistics of the input batch, so that a query batch
is normalised by itself (transductive). In `support` mode it uses those of the support set under the current parameters:
the support examples are prepended to the batch, and only they enter the statistics (inductive). In `group` mode each
image is normalised by itself, in groups of channels.

The parameters are those of the published network, including the biases of the convolutions, which have no effect
before batch norm.

With context parameters c (Zintgraf et al. 2019, arXiv 1810.03642, section 3.3), these modulate block 3:

    (s, t) = V c,    h <- (1 + s) h + t     after the norm        V: block3.film.weight

Deviation: the paper's linear layer has a bias and gives s + 1; here the network without context is conv4 itself.

Deviation from the paper: Xavier-uniform weights (Glorot & Bengio 2010) in all layers; its code draws the weights of the
head and of the convolutions from different truncated normals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config import Conv4Config
from distmeta.config.bounds import MAX_PARAMETERS
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import INDUCTIVE, TRANSDUCTIVE, Backbone, Frame
from distmeta.models.convolution import conv3x3
from distmeta.models.heads import CONTEXT, init_heads, with_heads
from distmeta.models.normalization import batch_norm, context_batch_norm, group_norm

NUM_BLOCKS, MAX_GROUPS = 4, 8
FILM_BLOCK, FILM = "block3", "block3.film.weight"


class Conv4(Backbone):
    """Four convolutional blocks and linear heads.

    Args:
        config: Number of filters, downsampling and norm.
        input_shape: (channels, height, width).
        heads: Number of outputs by name of the head.
        dtype: Type of the parameters.

    Raises:
        UserError: The input is not an image, or too small for four downsamplings.
    """

    protocols: tuple[str, ...] = (TRANSDUCTIVE, INDUCTIVE)
    is_row_wise = False

    def __init__(
        self, config: Conv4Config, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        if len(input_shape) != 3:
            raise UserError(
                f"conv4 takes images, but the inputs of the tasks have shape {input_shape}",
                where="model.kind",
                allowed="mlp, or tasks of images",
            )
        self.heads = dict(heads)
        self._config, self._channels, self._dtype = config, input_shape[0], dtype
        side_h, side_w = input_shape[1:]
        for _ in range(NUM_BLOCKS):
            strided = config.downsample == "stride"
            side_h, side_w = ((side_h + 1) // 2, (side_w + 1) // 2) if strided else (side_h // 2, side_w // 2)
        if side_h * side_w == 0:
            raise UserError(
                f"images of {input_shape[1]}x{input_shape[2]} pixels are too small for four 2x2 poolings",
                where="model.downsample",
                allowed="images of 16x16 pixels or more, or downsample 'stride'",
            )
        self.num_features = config.filters * (1 if config.downsample == "stride" else side_h * side_w)
        largest = max(self.num_features * max(heads.values(), default=1), config.filters * input_shape[0] * 9)
        if largest > MAX_PARAMETERS:
            what = (
                f"{config.filters} filters make a layer of {largest} parameters on inputs of shape {list(input_shape)}"
            )
            raise UserError(what, where="model.filters", allowed=f"at most {MAX_PARAMETERS} parameters")
        self.protocol = TRANSDUCTIVE if config.norm == "batch" else INDUCTIVE
        if config.norm == "group":
            self._require_groups(side_h * side_w)
            self.protocols, self.is_row_wise = (INDUCTIVE,), True
        self._build = partial(Conv4, input_shape=input_shape, heads=heads, dtype=dtype)

    def _require_groups(self, pixels: int) -> None:
        """Check that the last norm has several values in each group: one value less its mean is zero."""
        filters = self._config.filters
        values = filters // math.gcd(filters, MAX_GROUPS) * (pixels if self._config.downsample == "stride" else 4)
        if values < 2:
            what = f"group norm of {filters} filters on a last map of one pixel has one value in a group"
            raise UserError(what, where="model.norm", allowed="more filters, larger images, or batch or support")

    @override
    def under(self, protocol: str) -> Conv4:
        """Transductive with the statistics of the batch, inductive with those of the support set, or of each image."""
        if self._config.norm == "group":
            return self
        norm = {TRANSDUCTIVE: "batch", INDUCTIVE: "support"}[protocol]
        return self._build(self._config.model_copy(update={"norm": norm}))

    @override
    def init(self, seed: int) -> Params:
        """Weights Xavier-uniform, biases zero, norm scales one."""
        rng = torch.Generator().manual_seed(mix(seed, "conv4"))

        def xavier(*shape: int) -> Tensor:
            receptive = math.prod(shape[2:])
            bound = math.sqrt(6.0 / (receptive * (shape[0] + shape[1])))
            return ((torch.rand(*shape, generator=rng, dtype=torch.float64) * 2 - 1) * bound).to(self._dtype)

        params: Params = {}
        channels, filters = self._channels, self._config.filters
        for block in range(1, NUM_BLOCKS + 1):
            params[f"block{block}.conv.weight"] = xavier(filters, channels, 3, 3)
            params[f"block{block}.conv.bias"] = torch.zeros(filters, dtype=self._dtype)
            params[f"block{block}.norm.weight"] = torch.ones(filters, dtype=self._dtype)
            params[f"block{block}.norm.bias"] = torch.zeros(filters, dtype=self._dtype)
            channels = filters
        if size := self._config.context_size:
            params |= {CONTEXT: torch.zeros(size, dtype=self._dtype), FILM: xavier(2 * filters, size)}
        return params | init_heads(self, seed, rng, self._dtype)

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """[B, C, H, W] -> [B, D]. With norm `support`, the statistics are those of the context [N, C, H, W]."""
        context = frame.context
        inductive = context is not None and self._config.norm == "support"
        num_context = context.shape[0] if context is not None and inductive else inputs.shape[0]
        x = torch.cat((context, inputs)) if context is not None and inductive else inputs
        for block in range(1, NUM_BLOCKS + 1):
            x = self._block(params, f"block{block}", x, num_context)
            frame.tap(f"block{block}", x[num_context:] if inductive else x)
        x = x[num_context:] if inductive else x
        return x.mean((2, 3)) if self._config.downsample == "stride" else x.flatten(1)

    def _block(self, params: Mapping[str, Tensor], name: str, x: Tensor, num_context: int) -> Tensor:
        stride = 2 if self._config.downsample == "stride" else 1
        scale, shift = params[f"{name}.norm.weight"], params[f"{name}.norm.bias"]
        if self._config.context_size and name == FILM_BLOCK:
            by, plus = (params[FILM] @ params[CONTEXT]).chunk(2)
            scale, shift = (1 + by) * scale, (1 + by) * shift + plus
        x = conv3x3(x, params[f"{name}.conv.weight"], stride)
        if self._config.norm == "group":
            x = x + params[f"{name}.conv.bias"][:, None, None]
            x = group_norm(x, math.gcd(x.shape[1], MAX_GROUPS), scale, shift)
        # Batch norm subtracts the mean of each channel, so the effect of the convolution's bias and its derivatives are
        # exactly zero: it is not added.
        elif num_context == x.shape[0]:
            x = batch_norm(x, scale, shift)
        else:
            x = context_batch_norm(x, num_context, scale, shift)
        x = torch.relu(x)
        return x if stride == 2 else F.max_pool2d(x, 2)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body`, every head, `norm` (scales and shifts), `block1` .. `block4`, `context` where there is one."""
        parts = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
        blocks = {block: tuple(f"{block}.{part}" for part in parts) for block in self.blocks()}
        if self._config.context_size:
            blocks[FILM_BLOCK] += (FILM,)
            blocks = {CONTEXT: (CONTEXT,), **blocks}
        norm = tuple(name for names in blocks.values() for name in names if ".norm." in name)
        return with_heads(self, blocks, norm=norm)

    @override
    def blocks(self) -> tuple[str, ...]:
        return tuple(f"block{block}" for block in range(1, NUM_BLOCKS + 1))
