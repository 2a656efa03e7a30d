"""Update rules of learned optimizers. A new one is a class and a row of `RULES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distmeta.config.optimizers import RuleConfig
from distmeta.methods.learners.rules.adam import AdamRule
from distmeta.methods.learners.rules.base import UpdateRule
from distmeta.methods.learners.rules.lstm import LstmRule
from distmeta.methods.learners.rules.mlp import MlpRule

RULES: dict[str, Callable[[Any], UpdateRule]] = {"lstm": LstmRule, "mlp": MlpRule, "adam": AdamRule}


def build_rule(config: RuleConfig) -> UpdateRule:
    """Build an update rule from its configuration."""
    return RULES[config.kind](config)
