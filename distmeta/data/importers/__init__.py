"""Importers, by name: each reads raw files into the arrays of a class store."""

from __future__ import annotations

from distmeta.data.importers import cifar, cifar10, folder, grey, groups, intents, omniglot, saved, table
from distmeta.data.importers.base import ClassData, Importer, ImportOptions

IMPORTERS: dict[str, Importer] = {
    "omniglot": omniglot.IMPORTER,
    "omniglot_alphabets": omniglot.ALPHABETS,
    "cifar_fs": cifar.CIFAR_FS,
    "fc100": cifar.FC100,
    "cifar10": cifar10.IMPORTER,
    "fashion_mnist": grey.FASHION_MNIST,
    "fashion_mnist_8x8": grey.FASHION_MNIST_8X8,
    "usps": grey.USPS,
    "usps_8x8": grey.USPS_8X8,
    "banking77": intents.BANKING77,
    "clinc150": intents.CLINC150,
    "images": folder.IMPORTER,
    "table": table.IMPORTER,
    "hf": saved.IMPORTER,
    "regression": groups.IMPORTER,
}

__all__ = ["IMPORTERS", "ClassData", "ImportOptions", "Importer"]
