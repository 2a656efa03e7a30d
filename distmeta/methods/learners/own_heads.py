"""Last layers that a task does not take from the meta-parameters as they are, before its first inner step.

fresh        zeros
prototypes   a linear layer that classifies by distance to the class means of the features (Proto-MAML)
label_words  the words of the classes' names (`distmeta.methods.learners.words`)
reset        those of the meta-parameters, with zeros in the rows of the task's classes (OML)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distmeta.config import GradientConfig
from distmeta.core.types import LABELS, Episode, Params
from distmeta.methods.learners.phases import ReadyPhase
from distmeta.methods.learners.prototype import class_means, linear_form
from distmeta.methods.learners.words import class_words
from distmeta.models.base import Backbone


class OwnHeads:
    """Makes the heads of a task.

    Args:
        config: Which kind.
        backbone: The network.
        used: Phases that take steps.
        where: Field of the configuration that `config` is, for messages.

    Attributes:
        names: Parameters of the heads that adaptation goes through.
        fresh: Those that start anew, whatever the meta-parameters are.
        resets: Whether rows of the meta-parameters start from zeros.
        made: Whether the heads come from the task, so that the meta-parameters have none.
        need_features: Whether they are made of the features.
        need_words: Whether they are made of the names of the classes.

    Raises:
        UserError: The heads need words that the network does not predict.
    """

    def __init__(self, config: GradientConfig, backbone: Backbone, used: Sequence[ReadyPhase], where: str) -> None:
        self._backbone, self._scale = backbone, config.scale
        self._phases = [phase.config for phase in used]
        heads = dict.fromkeys(phase.head for phase in self._phases) or {config.phases[-1].head: None}
        self.names = frozenset(name for head in heads for name in backbone.head_names(head))
        self.fresh = frozenset() if config.head in ("meta", "reset") else self.names
        self.resets, self.need_features = config.head == "reset", config.head == "prototypes"
        self._words = backbone.words(f"{where}.head") if config.head == "label_words" else None
        self.need_words = self._words is not None
        self.made = self.need_features or self.need_words

    def start(self, meta: Params, features: Tensor | None, task: Episode, role: str) -> Params:
        """The heads of a task, whose number of outputs is the task's.

        Args:
            meta: Meta-parameters.
            features: [N, D] features of the examples of `role`, if `need_features`.
            task: The task.
            role: Role of the examples that class means are of.
        """
        return self._reset(meta, task) if self.resets else self._fresh(meta, features, task, role)

    def _fresh(self, meta: Params, features: Tensor | None, task: Episode, role: str) -> Params:
        like, heads = next(iter(meta.values())), Params()
        for head, outputs in self._backbone.heads.items() if self.fresh else ():
            weight, bias = self._backbone.head_names(head)
            if self._words is not None:
                pad_id = self._backbone.tokens.pad_id if self._backbone.tokens else 0
                heads[weight] = self._scale * class_words(self._words, task[LABELS].inputs, pad_id)
                heads[bias] = like.new_zeros(outputs)
            elif self.need_features and features is not None:
                means = class_means(features, task[role], outputs)
                heads[weight], heads[bias] = linear_form(means, self._scale)
            else:
                heads[weight] = like.new_zeros(outputs, self._backbone.num_features)
                heads[bias] = like.new_zeros(outputs)
        return {name: tensor for name, tensor in heads.items() if name in self.fresh}

    def _reset(self, meta: Params, task: Episode) -> Params:
        """Zero are the rows of the classes among the examples that go through a head."""
        heads: Params = {}
        for phase in self._phases:
            targets = task[phase.role].targets
            assert targets is not None
            for name in self._backbone.head_names(phase.head):
                head = heads.get(name, meta[name])
                present = (targets[:, None] == torch.arange(len(head), device=head.device)).any(0)
                heads[name] = torch.where(present.reshape(-1, *([1] * (head.dim() - 1))), torch.zeros_like(head), head)
        return heads
