"""Importers, by name: each reads raw files into the arrays of a class store."""

from __future__ import annotations

from distmeta.data.importers import cifar, folder, groups, intents, omniglot, saved, table
from distmeta.data.importers.base import ClassData, Importer, ImportOptions

IMPORTERS: dict[str, Importer] = {
    "omniglot": omniglot.IMPORTER,
    "omniglot_alphabets": omniglot.ALPHABETS,
    "cifar_fs": cifar.CIFAR_FS,
    "fc100": cifar.FC100,
    "banking77": intents.BANKING77,
    "clinc150": intents.CLINC150,
    "images": folder.IMPORTER,
    "table": table.IMPORTER,
    "hf": saved.IMPORTER,
    "regression": groups.IMPORTER,
}

__all__ = ["IMPORTERS", "ClassData", "ImportOptions", "Importer"]
