"""Pre-train a small encoder on one's own texts, by masked language modelling (Devlin et al. 2019, arXiv 1810.04805).

Texts of the tasks themselves are often as good a corpus as a large one (Krishna et al. 2023, arXiv 2209.14389). What is
written is a folder as `transformers` writes them, with a tokenizer made from the same texts: `model.pretrained` and
`tasks.tokenizer` take it.

Deviations: no next-sentence prediction, no dropout, each step draws its texts anew.

A decoder is pre-trained in the same way by `distmeta.models.petl.decoder`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.models.petl.load import quiet, require_transformers

Examples = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Inputs and labels [B, L] of a step, from token ids [B, L] and draws."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
"""A BERT of three million weights without its embeddings."""
MAX_ENDING = 5
"""Characters of the longest ending that is a piece of its own."""
MASKED, KEPT, RANDOM = 0.15, 0.1, 0.1
"""Shares: of the tokens that are predicted, and of these the ones that stay and that are replaced by any other."""


@dataclass(frozen=True)
class Pretraining:
    """How to pre-train.

    Attributes:
        steps: Steps of AdamW.
        batch: Texts of a step.
        lr: Rate after a warm-up of a tenth of the steps; it falls to zero linearly.
        length: Tokens that are read of a text.
        vocabulary: Ids of the tokenizer, at most.
        seed: Of weights, texts and masks.
        budget_s: Seconds; None for all steps. The rate has fallen to zero when they are over.
    """

    steps: int = 2000
    batch: int = 64
    lr: float = 1e-3
    length: int = 64
    vocabulary: int = 8000
    seed: int = 0
    budget_s: float | None = None


def pretrain(
    texts: Sequence[str],
    folder: Path,
    settings: Pretraining | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> list[float]:
    """Train tokenizer and encoder, and write both.

    Args:
        texts: The corpus.
        folder: Written to: `config.json`, `model.safetensors`, `tokenizer.json`.
        settings: How; None takes the defaults.
        architecture: Sizes of the BERT; None takes `SMALL`.

    Returns:
        The loss of each step, in nats for each predicted token.

    Raises:
        UserError: There are fewer than two texts, or `transformers` is not installed.
    """
    transformers, settings = require_transformers("pretrain"), settings or Pretraining()
    tokenizer = word_pieces(texts, settings.vocabulary)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(settings.seed, "encoder"))
        sizes = {**SMALL, **(architecture or {}), "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0}
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = transformers.BertConfig(max_position_embeddings=512, **sizes, **still)
        network = transformers.BertForMaskedLM(config)
    losses = fit(network, encoded(tokenizer, texts, settings), partial(mask_tokens, sizes["vocab_size"]), settings)
    write(network, tokenizer, folder)
    return losses


def write(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write a network of `transformers` and its tokenizer."""
    transformers = require_transformers("pretrain")
    folder.mkdir(parents=True, exist_ok=True)
    with quiet(transformers):
        network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def word_pieces(texts: Sequence[str], vocabulary: int) -> Any:
    """A tokenizer of word pieces, as BERT's (uncased): characters, and the words and endings that occur most.

    It puts no special tokens around texts; padding is id 0.

    Args:
        texts: The corpus.
        vocabulary: Ids, at most.

    Raises:
        UserError: There are fewer than two texts.
    """
    if len(texts) < 2:
        raise UserError(f"{len(texts)} texts", where="texts", allowed="two or more")
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    pieces = {piece: number for number, piece in enumerate(_pieces(words, vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.no_padding()
    return tokenizer


def _pieces(words: Mapping[str, int], vocabulary: int) -> list[str]:
    """Special tokens, every character alone and within a word, and the most frequent words and endings.

    The trainer of the package tokenizers orders pieces of equal counts by chance.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        counts[word] += count
        for length in range(2, min(len(word), MAX_ENDING + 1)):
            counts[f"##{word[-length:]}"] += count
    characters = sorted({character for word in words for character in word})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return list(dict.fromkeys([*pieces, *frequent]))[: max(vocabulary, len(pieces))]


def encoded(tokenizer: Any, texts: Sequence[str], settings: Pretraining) -> list[Tensor]:
    """The token ids of each text, cut to the length that is read."""
    tokenizer.enable_truncation(settings.length)
    ids = [torch.tensor(each.ids) for each in tokenizer.encode_batch(list(texts))]
    tokenizer.no_truncation()
    return ids


def fit(network: Any, texts: Sequence[Tensor], examples: Examples, settings: Pretraining) -> list[float]:
    """Train a network of `transformers` on token ids; returns the loss of each step.

    Args:
        network: Gives the loss of `labels`.
        texts: Token ids of each text.
        examples: Inputs and labels of a step.
        settings: How.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=0.01)
    warmup = max(1, settings.steps // 10)
    losses: list[float] = []
    started = time.monotonic()
    network.train()
    for step in range(settings.steps):
        done = float(step)
        if settings.budget_s is not None:
            done = max(done, settings.steps * (time.monotonic() - started) / settings.budget_s)
            if done >= settings.steps:
                break
        rng = torch.Generator().manual_seed(mix(settings.seed, "step", step))
        rows = torch.randint(len(texts), (settings.batch,), generator=rng).tolist()
        ids = torch.nn.utils.rnn.pad_sequence([texts[row] for row in rows], batch_first=True)
        inputs, labels = examples(ids, rng)
        loss = network(input_ids=inputs, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        rate = min((done + 1) / warmup, (settings.steps - done) / max(1, settings.steps - warmup))
        optimizer.param_groups[0]["lr"] = settings.lr * rate
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def mask_tokens(vocabulary: int, ids: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose the tokens to predict: most are masked, some replaced, some stay.

    Args:
        vocabulary: Number of ids.
        ids: int64 [B, L]; ids below the number of special tokens are never chosen.
        rng: Draws.

    Returns:
        Inputs [B, L], and labels [B, L]: -100 where nothing is predicted. At least one token is chosen.
    """
    draws, other = torch.rand(ids.shape, generator=rng), torch.rand(ids.shape, generator=rng)
    is_word = ids >= len(SPECIAL)
    draws = torch.where(is_word, draws, 2.0)
    chosen = (draws < MASKED) | ((draws == draws.min()) & is_word)
    replaced = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=rng)
    masked = torch.where(other < RANDOM, replaced, torch.full_like(ids, SPECIAL.index("[MASK]")))
    inputs = torch.where(chosen & (other < 1 - KEPT), masked, ids)
    return inputs, torch.where(chosen, ids, -100)
