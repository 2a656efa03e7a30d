"""A head of label words, compared with log-likelihoods of transformers' own decoders, and finite differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.config import RunConfig
from distmeta.core.tensors import digest
from distmeta.core.types import LABELS, Episode, Params
from distmeta.engine.chunks import cut
from distmeta.engine.engine import Engine, one_by_one
from distmeta.engine.ops import EagerOps
from distmeta.methods import label_words
from distmeta.methods.build import Algorithm, build_algorithm
from distmeta.tasks import build_source

from ..decoders import GPT2, LLAMA, TEMPLATE, texts_in, transformer
from .problems import EXACT, FIRST_ORDER, LOOP, VMAP, complete, perturbed, relative_error, terms_of

transformers = pytest.importorskip("transformers", reason="decoders are those of transformers")
DECODERS = {
    "gpt2": GPT2,
    "gpt2, untied": {**GPT2, "tie_word_embeddings": False},
    "llama": LLAMA,
    "llama, tied": {**LLAMA, "tie_word_embeddings": True},
}


def saved(architecture: dict[str, Any], folder: Path) -> Any:
    """A decoder of transformers with random weights, written to a folder."""
    options = {name: value for name, value in architecture.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(architecture["model_type"], pad_token_id=0, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    decoder.save_pretrained(folder)
    return decoder


def problem(folder: Path, model: dict[str, Any], **settings: Any) -> tuple[Algorithm, Episode, Params]:
    """A method, training tasks of three classes, and meta-parameters that are not the initial ones."""
    config = RunConfig.model_validate(
        {
            "name": "words",
            "tasks": texts_in(folder),
            "model": model,
            "algorithm": label_words(**settings),
            "engine": {"dtype": "float64"},
        }
    )
    source = build_source(config.tasks, 0, torch.float64)
    algorithm = build_algorithm(config, source.signature)
    episodes = source.episodes(source.specs("train", 0, 5), algorithm.train_roles)
    return algorithm, episodes, perturbed(algorithm.learner.init(0))


def outputs_of(algorithm: Algorithm, episode: Episode, meta: Params) -> Tensor:
    """Outputs [B, C] for the queries of one task."""
    ops = one_by_one(algorithm.learner)
    return ops.predict(meta, ops.adapt(meta, episode), episode, episode.query.inputs, head="head")[0]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_scores_are_mean_log_likelihoods_of_the_names(name: str, scale: float, tmp_path: Path) -> None:
    """The reference reads each text by itself, and knows of names what the tokenizer makes of the whole line."""
    decoder = saved(DECODERS[name], tmp_path / "network")
    model = {**transformer(DECODERS[name]), "architecture": {}, "pretrained": str(tmp_path / "network")}
    algorithm, episodes, meta = problem(tmp_path, model, steps=0, scale=scale)
    meta = {name: torch.zeros_like(tensor) for name, tensor in meta.items()}  # LoRA adds nothing
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "decoder" / "tokenizer.json"))
    for task in range(episodes.num_tasks):
        episode = episodes.select([task])
        names = [tokenizer.decode([v for v in row if v]) for row in episode[LABELS].inputs[0].tolist()]
        expected = []
        for row in episode.query.inputs[0].tolist():
            text = [index for index in row if index]
            with torch.no_grad():
                words = decoder(input_ids=torch.tensor([text])).logits[0, -1].log_softmax(-1)
            ends = [tokenizer.encode(f"{TEMPLATE.replace('{}', 'a')} {each}").ids for each in names]
            opening = tokenizer.encode(TEMPLATE.replace("{}", "a")).ids
            expected.append(torch.stack([words[each[len(opening) :]].mean() for each in ends]))
        probabilities = (scale * torch.stack(expected)).softmax(-1)
        actual = outputs_of(algorithm, episode, meta).softmax(-1)
        assert float((probabilities.amax(1) - probabilities.amin(1)).min()) > 1e-3, "classes differ"
        torch.testing.assert_close(actual, probabilities, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "groups", [("all",), *(pytest.param((part,), marks=pytest.mark.slow) for part in ("head", "body"))]
)
def test_the_gradient_is_that_of_finite_differences(groups: tuple[str, ...], tmp_path: Path) -> None:
    algorithm, episodes, meta = problem(tmp_path, transformer(), steps=2, lr=0.1, groups=groups, scale=0.2)
    engine = Engine(algorithm.learner, EXACT, terms_of(episodes), LOOP)
    gradient = complete(engine.update(meta, episodes)[0].grad, meta)
    assert not any(name.startswith("head") for name in meta)
    rng = torch.Generator().manual_seed(3)
    for _ in range(3):
        draw = {n: g.sign() * torch.rand(g.shape, generator=rng, dtype=g.dtype) for n, g in gradient.items()}
        length = sum(float(tensor.square().sum()) for tensor in draw.values()) ** 0.5
        step, size = {name: tensor / length for name, tensor in draw.items()}, 1e-5

        def loss(distance: float, step: Params = step) -> float:
            moved = {name: tensor + distance * step[name] for name, tensor in meta.items()}
            return engine.update(moved, episodes)[0].metrics["loss"]

        slope = (loss(size) - loss(-size)) / (2 * size)
        assert sum(float((gradient[name] * step[name]).sum()) for name in meta) == pytest.approx(slope, rel=1e-6)


def test_strategies_agree(tmp_path: Path) -> None:
    algorithm, episodes, meta = problem(tmp_path, transformer(), steps=2, lr=0.3)
    for estimator in (EXACT, FIRST_ORDER):
        loop, vmap = (
            Engine(algorithm.learner, estimator, terms_of(episodes), engine).update(meta, episodes)[0].grad
            for engine in (LOOP, VMAP)
        )
        assert relative_error(vmap, loop) < 1e-11


def test_a_task_has_the_same_bits_alone_and_among_others(tmp_path: Path) -> None:
    algorithm, episodes, meta = problem(tmp_path, transformer(), steps=2, lr=0.3)
    twice = episodes.select([0, 1, 2, 3, 4, 0])
    assert len(cut(twice, None)) < 6, "some tasks are computed together"
    ops, together = EagerOps(algorithm.learner, "vmap", ()), {}
    for chunk in cut(twice, None):
        state = ops.adapt(meta, chunk.episodes)
        for place, task in enumerate(chunk.tasks):
            together[task] = {name: tensor[place] for name, tensor in state.fast.moved.items()}
    for task in range(5):
        alone = ops.adapt(meta, twice.select([task])).fast.moved
        assert digest({name: tensor[0] for name, tensor in alone.items()}) == digest(together[task])


def test_a_frozen_matrix_is_no_meta_parameter(tmp_path: Path) -> None:
    algorithm, _, meta = problem(tmp_path, transformer(LLAMA), steps=1)
    assert all("lora" in name for name in meta)
    assert sum(tensor.numel() for tensor in meta.values()) < 16 * algorithm.learner.backbone.num_features**2
