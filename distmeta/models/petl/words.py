"""The words that a decoder predicts: rows of its output embedding, which are frozen.

    log p(word v | text) = h . E_v - log sum_u exp(h . E_u)         h: last hidden state of the text's last token

The matrix E [V, D] is that of the network's token embeddings where it ties them to its words (GPT-2), and the last
layer of `AutoModelForCausalLM` where it does not (Llama). Only decoders whose scores are exactly h E^T are taken: what
lies between hidden states and scores is tried at construction, on a copy without weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distmeta.core import ranks
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.models.petl.frozen import frozen_embedding, is_partitioned
from distmeta.models.petl.load import errors_as_lines, folder_of, quiet, require_transformers

ALLOWED = "a decoder whose word scores are products with one matrix (GPT-2, Llama, ...)"
_heads: dict[tuple[Any, ...], nn.Parameter] = {}


class Words:
    """Rows of an output embedding.

    Args:
        weight: [V, D], in one piece or in parts on the ranks of this worker.
        dtype: Type of the rows.
    """

    def __init__(self, weight: nn.Parameter, dtype: torch.dtype) -> None:
        self._weight, self._dtype = weight, dtype

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows [..., D] of token ids int64 [...]."""
        if self._weight.device != ids.device and not is_partitioned(self._weight):
            self._weight = nn.Parameter(self._weight.to(ids.device), requires_grad=False)
        return frozen_embedding(ids, self._weight).to(self._dtype)


def load_words(
    network: Any, pretrained: str | None, architecture: Mapping[str, Any], dtype: torch.dtype, where: str
) -> nn.Parameter:
    """The output embedding [V, D] of a network that was loaded without it.

    Args:
        network: The network.
        pretrained: Where it is from (see `load_network`).
        architecture: Fields of its configuration.
        dtype: Type of the matrix, where it is not that of the network's embeddings.
        where: Field of the run's configuration that asks for words, for messages.

    Raises:
        UserError: The network has no word scores, or they are no products with a matrix.
    """
    is_tied = _try(network.config, where)
    if is_tied:
        weight: nn.Parameter = network.get_input_embeddings().weight
        return weight
    key = (pretrained, repr(sorted(architecture.items())), dtype)
    if key not in _heads:
        loaded = _load(network.config, pretrained, architecture, dtype, where).to(dtype)
        _heads[key] = nn.Parameter(loaded, requires_grad=False)
    if ranks.current.world > 1:
        from distmeta.models.petl.partition import partition

        partition(nn.ParameterList([_heads[key]]))
    return _heads[key]


class _Hidden(nn.Module):
    """Stands for a network without its last layer: gives the same hidden states whatever it is called with."""

    def __init__(self, hidden: Tensor, output: Any) -> None:
        super().__init__()
        self._output = output(last_hidden_state=hidden)

    @property
    def decoder(self) -> nn.Module:
        """Itself: OPT asks for the decoder of its network."""
        return self

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._output


def _try(config: Any, where: str) -> bool:
    """Check that scores are products of hidden states and one matrix; returns whether it is that of the embeddings."""
    transformers = require_transformers(where)
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 8, None
    try:
        with quiet(transformers), torch.device("meta"):
            decoder = transformers.AutoModelForCausalLM.from_config(small)
        last = decoder.get_output_embeddings()
        is_tied = last.weight is decoder.get_input_embeddings().weight
        rng = torch.Generator().manual_seed(0)
        matrix = torch.randn(last.weight.shape, generator=rng)
        hidden = torch.randn(1, 3, matrix.shape[1], generator=rng)
        last.weight = nn.Parameter(matrix, requires_grad=False)
        output = transformers.modeling_outputs.BaseModelOutputWithPastAndCrossAttentions
        setattr(decoder, decoder.base_model_prefix, _Hidden(hidden, output))
        scores = decoder(input_ids=torch.zeros(1, 3, dtype=torch.int64), use_cache=False).logits
        is_linear = last.bias is None and torch.allclose(scores, hidden @ matrix.T, rtol=1e-4, atol=1e-4)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        what = f"a network of kind '{config.model_type}' has no scores of words that can be used"
        raise UserError(what, where=where, allowed=ALLOWED) from error
    if not is_linear:
        what = f"word scores of a network of kind '{config.model_type}' are no products of hidden states and a matrix"
        raise UserError(what, where=where, allowed=ALLOWED)
    return is_tied


def _load(
    config: Any, pretrained: str | None, architecture: Mapping[str, Any], dtype: torch.dtype, where: str
) -> Tensor:
    """The weight of the last layer of a decoder that has one of its own; of a random network, a random one."""
    transformers = require_transformers(where)
    if pretrained is None:
        rng = torch.Generator().manual_seed(mix(0, "words"))
        deviation = getattr(config, "initializer_range", 0.02)
        return torch.randn(config.vocab_size, config.hidden_size, generator=rng) * deviation
    with quiet(transformers), errors_as_lines(pretrained, "model"):
        folder = folder_of(pretrained, "model.pretrained")
        decoder, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=os.path.isdir(folder),
            output_loading_info=True,
            **architecture,
        )
    last: Tensor = decoder.get_output_embeddings().weight
    names = [name for name, weight in decoder.named_parameters() if weight is last]
    if missing := sorted(set(names) & set(found["missing_keys"])):
        what = f"the folder has no weights '{missing[0]}', which the scores of words need"
        raise UserError(what, where="model.pretrained", allowed="a folder saved with the words that it predicts")
    return last.detach()
