"""The peer: what a user of `peft` and `transformers` writes to meta-train a LoRA, one task after the other.

    network = peft.get_peft_model(AutoModel.from_pretrained(...), LoraConfig(...))       mean pooling, a linear head
    for task in tasks:  fast = LoRA and head;  fast <- fast - lr grad L_support(fast);  backward of L_query(fast)

Batches are padded to their own longest text, as a collator of `transformers` pads them. Exact second order needs
attention that can be differentiated twice (`eager`); first order may use `sdpa` as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from benchmarks.engine.common.peers import Run
from benchmarks.engine.common.workload import Workload
from distmeta.config import BackpropConfig, GradientConfig
from distmeta.config.models import TransformerConfig
from distmeta.config.petl import LoraConfig
from distmeta.core.types import Batch, Params
from distmeta.models.petl.load import folder_of, load_network
from distmeta.models.petl.transformer import Transformer

PEFT_EAGER, PEFT_SDPA = "peft_loop", "peft_loop/sdpa"
PEERS = (PEFT_EAGER, PEFT_SDPA)
_ADAPTER = "default"


def left_out(name: str, workload: Workload) -> str | None:
    """Why a peer does not take part; None where it does."""
    if importlib.util.find_spec("peft") is None:
        return "peft is not installed; `pip install 'distmeta[dev]'` installs it"
    if name == PEFT_SDPA and _order(workload) == 2:
        return "fused attention has no second derivative"
    return None


class PlainClassifier(nn.Module):
    """A network of `peft`, mean pooling over the tokens of each text, and a linear head."""

    def __init__(self, network: nn.Module, num_features: int, way: int, pad_id: int) -> None:
        super().__init__()
        self.network, self.head, self._pad_id = network, nn.Linear(num_features, way), pad_id

    @override
    def forward(self, ids: Tensor) -> Tensor:  # int64 [B, L] -> [B, way]
        mask = (ids != self._pad_id).long()
        hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return self.head((hidden * weights).sum(1) / weights.sum(1))  # type: ignore[no-any-return]


def by_peft(workload: Workload, attention: str = "eager") -> Run:
    """The loop over tasks. Parameters and gradients have distmeta's names."""
    net = _classifier(workload, attention)
    pad_id = pad_id_of(workload)
    named = dict(net.named_parameters())
    full: Params = {name: named[_full_name(name)] for name in workload.meta}
    order, learner = _order(workload), workload.config.algorithm.learner
    assert isinstance(learner, GradientConfig), "the rows are MAML"
    (phase,) = learner.phases
    tasks = [(_trimmed(task.support, pad_id), _trimmed(task.query, pad_id)) for task in workload.tasks()]

    def loss(fast: Params, batch: Batch) -> Tensor:
        outputs = functional_call(net, {_full_name(name): value for name, value in fast.items()}, (batch.inputs,))
        return F.cross_entropy(outputs, batch.targets)  # type: ignore[arg-type]

    def run() -> Params:
        net.zero_grad()
        for support, query in tasks:
            fast = full
            for _ in range(phase.steps):
                grads = torch.autograd.grad(loss(fast, support), list(fast.values()), create_graph=order == 2)
                fast = {name: old - phase.lr * grad for (name, old), grad in zip(fast.items(), grads, strict=True)}
            torch.autograd.backward(loss(fast, query))
        return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in full.items()}

    return run


def _classifier(workload: Workload, attention: str) -> PlainClassifier:
    peft: Any = importlib.import_module("peft")
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    model, values = workload.config.model, next(iter(workload.meta.values()))
    assert isinstance(model, TransformerConfig)
    (part,) = model.petl
    assert isinstance(part, LoraConfig)
    if model.pretrained is not None:
        folder = folder_of(model.pretrained, "model.pretrained")
        network = transformers.AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=values.dtype)
    else:
        options = {name: value for name, value in model.architecture.items() if name != "model_type"}
        settings = transformers.AutoConfig.for_model(model.architecture["model_type"], **options)
        network = transformers.AutoModel.from_config(settings, attn_implementation=attention).to(values.dtype)
        network.pooler = None
        network.load_state_dict(load_network(None, model.architecture, values.dtype).state_dict())
    settings = peft.LoraConfig(r=part.rank, lora_alpha=part.alpha, target_modules=list(part.targets))
    way, num_features = workload.meta["head.weight"].shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers will rename
        adapted = peft.get_peft_model(network, settings)
    net = PlainClassifier(adapted, num_features, way, pad_id_of(workload)).eval()
    net.to(device=values.device, dtype=values.dtype)
    named = dict(net.named_parameters())
    with torch.no_grad():
        for name, value in workload.meta.items():
            named[_full_name(name)].copy_(value)
    return net


def _full_name(name: str) -> str:
    """Name of a parameter of distmeta in the classifier."""
    return name if name.startswith("head.") else f"network.base_model.model.{name}.{_ADAPTER}.weight"


def padded_places(workload: Workload) -> int:
    """Tokens of one pass over the texts of all tasks, padding included."""
    pad_id = pad_id_of(workload)
    batches = [batch for task in workload.tasks() for batch in (task.support, task.query)]
    return sum(_trimmed(batch, pad_id).inputs.numel() for batch in batches)


def pad_id_of(workload: Workload) -> int:
    """Id of padding."""
    backbone = workload.learner.backbone
    assert isinstance(backbone, Transformer)
    assert backbone.tokens is not None
    return backbone.tokens.pad_id


def _trimmed(batch: Batch, pad_id: int) -> Batch:
    """The batch without the columns in which all texts are padded."""
    longest = int((batch.inputs != pad_id).sum(-1).max())
    return Batch(batch.inputs[:, :longest].contiguous(), batch.targets)


def _order(workload: Workload) -> int:
    estimator = workload.config.algorithm.estimator
    assert isinstance(estimator, BackpropConfig)
    return estimator.order
