"""Pre-training on one's own texts: what is masked, that encoders and decoders learn, and that folders are backbones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from distmeta.config.models import TransformerConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.models import build_backbone
from distmeta.models.base import Frame
from distmeta.models.petl import pretrain as pretraining
from distmeta.models.petl.decoder import pretrain_decoder
from distmeta.models.petl.pretrain import SPECIAL, Pretraining, mask_tokens, pretrain
from distmeta.models.petl.tokens import load_tokenizer

pytest.importorskip("transformers", reason="encoders are those of transformers")
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = [
    f"the {size} {animal} {verb} home"
    for size in ("big", "small")
    for animal in ("cat", "dog", "cow", "hen")
    for verb in ("runs", "walks", "flies")
]
SETTINGS = Pretraining(steps=60, batch=16, lr=1e-2, length=12)


def test_masks_have_the_shares_of_the_paper() -> None:
    vocabulary = 1000
    ids = torch.randint(len(SPECIAL), vocabulary, (200, 100), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 50:] = SPECIAL.index("[CLS]"), 0
    inputs, labels = mask_tokens(vocabulary, ids, torch.Generator().manual_seed(1))
    chosen = labels != -100
    assert not bool(chosen[:, 0].any()) and not bool(chosen[:, 50:].any()), "special tokens are not predicted"
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(inputs[~chosen], ids[~chosen])
    assert float(chosen[:, 1:50].float().mean()) == pytest.approx(0.15, abs=0.01)
    masked, same = inputs[chosen] == SPECIAL.index("[MASK]"), inputs[chosen] == ids[chosen]
    assert float(masked.float().mean()) == pytest.approx(0.8, abs=0.04)
    assert float(same.float().mean()) == pytest.approx(0.1, abs=0.03)


def test_it_learns_and_its_folder_is_a_backbone(tmp_path: Path) -> None:
    losses = pretrain(TEXTS, tmp_path / "encoder", SETTINGS, TINY)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    tokenizer = load_tokenizer(str(tmp_path / "encoder"), lambda: [])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(each) for each in tokenizer.encode(TEXTS[:4])], True)
    config = TransformerConfig(pretrained=str(tmp_path / "encoder"))
    network = build_backbone(config, (16,), {"head": 2})
    assert network.tokens is not None
    assert (network.tokens.count, network.tokens.pad_id) == (tokenizer.vocab_size, tokenizer.pad_id)
    assert network.features(network.init(0), ids, Frame()).shape == (4, 32)


def test_it_is_a_function_of_its_settings(tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))
        pretrain(TEXTS, tmp_path / name, Pretraining(steps=3, batch=4, length=12), TINY)
        config = TransformerConfig(pretrained=str(tmp_path / name), petl=({"kind": "full"},))  # type: ignore[arg-type]
        weights.append(digest(build_backbone(config, (16,), {"head": 2}).init(0)))
    assert weights[0] == weights[1]
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_the_rate_falls_to_zero_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, rates = itertools.count(), []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(pretraining.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    settings = Pretraining(steps=1000, batch=4, lr=1.0, length=12, budget_s=20.0)
    assert len(pretrain(TEXTS, tmp_path, settings, TINY)) == len(rates) == 19
    assert max(rates) == pytest.approx(1.0, abs=0.06)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


def test_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^texts: 1 texts; allowed: two or more"):
        pretrain(["alone"], tmp_path)


# --- decoders ---

TINY_DECODER = {"n_embd": 32, "n_layer": 1, "n_head": 2}
SOUNDS = {"cat": "meows", "dog": "barks", "cow": "moos", "hen": "clucks"}
LINES = [f"the {size} {animal} {sound}" for size in ("big", "small") for animal, sound in SOUNDS.items()]


def test_a_decoder_learns_the_words_behind_a_text_and_its_folder_gives_them(tmp_path: Path) -> None:
    losses = pretrain_decoder(LINES, tmp_path / "decoder", SETTINGS, TINY_DECODER)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    tokenizer = load_tokenizer(str(tmp_path / "decoder"), lambda: [])
    assert tokenizer.closing() == ()
    config = TransformerConfig.model_validate(
        {"pretrained": str(tmp_path / "decoder"), "pooling": "last", "petl": ({"kind": "bitfit"},)}
    )
    network = build_backbone(config, (16,), {"head": 2})
    assert network.tokens is not None
    assert (network.tokens.count, network.tokens.pad_id) == (tokenizer.vocab_size, tokenizer.pad_id)
    ids = torch.tensor(tokenizer.encode([f"the small {animal}" for animal in SOUNDS]))
    words = network.words("here")(torch.tensor(tokenizer.continuations(list(SOUNDS.values()), "the")))
    assert words.shape == (4, 1, 32)
    scores = network.features(network.init(0), ids, Frame()) @ words[:, 0].T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_a_decoder_is_a_function_of_its_settings(tmp_path: Path) -> None:
    settings = Pretraining(steps=3, batch=4, length=12)
    losses = [pretrain_decoder(LINES, tmp_path / name, settings, TINY_DECODER) for name in ("a", "b")]
    assert losses[0] == losses[1]
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
