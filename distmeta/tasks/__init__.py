"""Task distributions: few-shot classes, drawn characters, sine waves, tables, problems, transfer, navigation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distmeta.config.interaction import CheetahTasks, NavigationTasks
from distmeta.config.problems import DatasetTasks, QuadraticTasks
from distmeta.config.python import PythonTasks
from distmeta.config.shifts import ShiftedTasks
from distmeta.config.tasks import GlyphTasks, SinusoidTasks, StoreTasks, TableTasks, TasksConfig, TextTasks, VectorTasks
from distmeta.config.transfer import TextTransferTasks, TransferTasks
from distmeta.core.code import instance_of
from distmeta.tasks.base import Declared, TaskSource
from distmeta.tasks.prefetch import Prefetcher

__all__ = ["SOURCES", "Prefetcher", "TaskSource", "build_source"]


def _images(config: StoreTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.images import StoreSource

    return StoreSource(config, open_store(config.store), seed, dtype)


def _vectors(config: VectorTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.images import VectorSource

    return VectorSource(config, open_store(config.store), seed, dtype)


def _texts(config: TextTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.texts import TextSource

    return TextSource(config, open_store(config.store), seed, dtype)


def _table(config: TableTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_table
    from distmeta.tasks.table import TableSource, import_options

    return TableSource(config, open_table(config.table, import_options(config)), seed, dtype)


def _glyphs(config: GlyphTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.tasks.glyphs import GlyphSource

    return GlyphSource(config, seed, dtype)


def _sinusoid(config: SinusoidTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.tasks.sinusoid import SinusoidSource

    return SinusoidSource(config, seed, dtype)


def _quadratics(config: QuadraticTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.tasks.problems import QuadraticSource

    return QuadraticSource(config, seed, dtype)


def _dataset(config: DatasetTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.problems import DatasetSource

    return DatasetSource(config, open_store(config.store), seed, dtype)


def _transfer(config: TransferTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.transfer import TransferSource

    return TransferSource(config, open_store(config.store), open_store(config.target), seed, dtype)


def _text_transfer(config: TextTransferTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.text_transfer import TextTransferSource

    return TextTransferSource(config, open_store(config.store), seed)


def _shifted(config: ShiftedTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.data.catalog import open_store
    from distmeta.tasks.shifted import ShiftedSource

    return ShiftedSource(config, open_store(config.store), seed, dtype)


def _navigation(config: NavigationTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.tasks.navigation import NavigationSource

    return NavigationSource(config, seed, dtype)


def _cheetah(config: CheetahTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    from distmeta.tasks.cheetah import CheetahSource

    return CheetahSource(config, seed, dtype)


def _python(config: PythonTasks, seed: int, dtype: torch.dtype) -> TaskSource:
    source: TaskSource = instance_of(TaskSource, config, "tasks", seed, dtype)
    source.seed, source.declared = seed, Declared(config.target, config.max_examples)
    return source


SOURCES: dict[str, Callable[[Any, int, torch.dtype], TaskSource]] = {
    "images": _images,
    "vectors": _vectors,
    "texts": _texts,
    "table": _table,
    "glyphs": _glyphs,
    "sinusoid": _sinusoid,
    "quadratics": _quadratics,
    "dataset": _dataset,
    "transfer": _transfer,
    "text_transfer": _text_transfer,
    "shifted": _shifted,
    "navigation": _navigation,
    "cheetah": _cheetah,
    "python": _python,
}
"""Factory for each `tasks.source`. Imports are lazy: sine waves need neither pyarrow nor the importers."""


def build_source(config: TasksConfig, seed: int, dtype: torch.dtype) -> TaskSource:
    """Build the task source of a configuration.

    Args:
        config: The `tasks` section.
        seed: The run's seed.
        dtype: Type of the examples: float32 or float64.

    Raises:
        UserError: The data is missing, or has too few classes or examples for the configured tasks.
    """
    return SOURCES[config.source](config, seed, dtype)
