"""Pre-train a small decoder on one's own texts, by predicting the next word (Radford et al. 2019, GPT-2).

Where the texts are the tasks' own, each followed by the name of its class (`distmeta.tasks.labels.labelled_lines`), the
decoder knows which words name classes, and `label_words` asks it for those of classes that it has not seen. What is
written is a folder as `transformers` writes them, for `model.pretrained` and `tasks.tokenizer`.

Deviations: word pieces as BERT's (uncased) instead of pairs of bytes, no token between texts, no dropout, each step
draws its texts anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distmeta.core.seeding import mix
from distmeta.models.petl.load import require_transformers
from distmeta.models.petl.pretrain import Pretraining, encoded, fit, word_pieces, write

SMALL = {"n_embd": 256, "n_layer": 4, "n_head": 4}
"""A GPT-2 of three million weights without its embeddings."""


def pretrain_decoder(
    texts: Sequence[str],
    folder: Path,
    settings: Pretraining | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> list[float]:
    """Train tokenizer and decoder, and write both.

    Args:
        texts: The corpus.
        folder: Written to: `config.json`, `model.safetensors`, `tokenizer.json`.
        settings: How; None takes the defaults.
        architecture: Sizes of the GPT-2; None takes `SMALL`.

    Returns:
        The loss of each step, in nats for each token.

    Raises:
        UserError: There are fewer than two texts, or `transformers` is not installed.
    """
    transformers, settings = require_transformers("pretrain"), settings or Pretraining()
    tokenizer = word_pieces(texts, settings.vocabulary)
    sizes = {**SMALL, **(architecture or {}), "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(settings.seed, "decoder"))
        network = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=512, **sizes, **still))
    network.loss_type = "ForCausalLM"  # else transformers says that it guesses it
    losses = fit(network, encoded(tokenizer, texts, settings), _next_words, settings)
    write(network, tokenizer, folder)
    return losses


def _next_words(ids: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
    """All tokens but padding are predicted; the network shifts the labels itself."""
    return ids, torch.where(ids == 0, -100, ids)
