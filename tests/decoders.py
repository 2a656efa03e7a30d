"""A small store of intents with a tokenizer that ends texts with nothing, and decoders of random weights for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distmeta.data.store import write_store
from distmeta.models.petl.pretrain import word_pieces

INTENTS = {
    "renew_loan": ["how long may I keep a book", "extend my loan of the atlas please", "renew the book I have at home"],
    "book_room": ["is a reading room free", "book a quiet room for two", "where is the group room"],
    "pay_fine": ["why must I pay a fee", "how much is the fine for late books", "I paid my fine twice"],
    "lost_card": ["my card is lost", "the card does not open the door", "I need a new card"],
    "opening_hours": ["when do you open", "is it open on Sunday", "how long is the reading room open at night"],
    "quiet": ["it is loud here", "people talk in the room", "where can I read in peace"],
    "donate_books": ["may I give you books", "do you take an old atlas", "I have ten books for you"],
}
SPLITS = {"all": {"train": [0, 1, 2, 3], "val": [], "test": [4, 5, 6]}}
TEMPLATE = "query: {} intent:"
VOCABULARY = 160
_SIZES = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}
GPT2: dict[str, Any] = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, **_SIZES}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    **_SIZES,
}


def texts_in(folder: Path) -> dict[str, Any]:
    """Write the store and the tokenizer; returns fields of the task section."""
    rows = [text for texts in INTENTS.values() for text in texts]
    write_store(folder / "intents", rows, class_names=list(INTENTS), class_counts=[3] * len(INTENTS), splits=SPLITS)
    lines = [f"{TEMPLATE.replace('{}', text)} {name.replace('_', ' ')}" for name in INTENTS for text in INTENTS[name]]
    (folder / "decoder").mkdir(exist_ok=True)
    word_pieces(lines, VOCABULARY).save(str(folder / "decoder" / "tokenizer.json"))
    return {
        "source": "texts",
        "store": str(folder / "intents"),
        "tokenizer": str(folder / "decoder"),
        "template": TEMPLATE,
        "buckets": (16, 24, 32),
        "way": 3,
        "shots": 1,
        "queries": 2,
        "eval_queries": 2,
    }


def transformer(architecture: dict[str, Any] = GPT2, **fields: Any) -> dict[str, Any]:
    """The section of a decoder with one LoRA part."""
    targets = ("fused",) if architecture["model_type"] == "gpt2" else ("query", "value")
    part = {"kind": "lora", "rank": 2, "targets": targets}
    return {"kind": "transformer", "architecture": architecture, "petl": (part,), "pooling": "last", **fields}
