"""A tiny run of texts by words, whose model the tests load and serve."""

from __future__ import annotations

from pathlib import Path

from distmeta.config import RunConfig
from distmeta.data.store import write_store
from distmeta.training import TrainResult, train

SENTENCES = {
    "loan": ["how long may I keep a book", "extend my loan of the atlas please", "renew the book I have at home"],
    "room": ["is a reading room free", "book a quiet room for two", "where is the group room"],
    "fine": ["why must I pay a fee", "how much is the fine for late books", "I paid my fine twice"],
    "card": ["my card is lost", "the card does not open the door", "I need a new card"],
}
TASK = {
    "support_inputs": [text for texts in SENTENCES.values() for text in texts[:2]],
    "support_targets": [name for name, texts in SENTENCES.items() for _ in texts[:2]],
    "query_inputs": ["I paid a late fee", "book a room", "the door needs a new card"],
}
"""A request: two sentences of each of four classes, and three sentences to label."""


def train_words(folder: Path, tracking: str) -> TrainResult:
    """Train one step; the data is in the folder as well."""
    rows = [text for texts in SENTENCES.values() for text in texts]
    splits = {"all": {"train": [0, 1], "val": [], "test": [2, 3]}}
    write_store(folder / "store", rows, class_names=list(SENTENCES), class_counts=[3] * 4, splits=splits)
    tasks = {"source": "texts", "store": str(folder / "store"), "tokenizer": "words", "way": 2}
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 64}
    config = {
        "name": "words",
        "tasks": {**tasks, "queries": 1, "eval_queries": 1, "buckets": (8, 16)},
        "model": {"kind": "transformer", "architecture": {"model_type": "bert", **sizes}, "normalise": True},
        "algorithm": {"learner": {"kind": "prototype", "scale": 10.0}},
        "train": {"steps": 1, "tasks_per_step": 2},
        "runtime": {"executor": "local", "shard_size": 1},
        "evaluation": {"final_tasks": 0},
        "tracking": {"uri": tracking},
        "checkpoint": {"path": str(folder / "runs")},
    }
    return train(RunConfig.model_validate(config), quiet=True)
