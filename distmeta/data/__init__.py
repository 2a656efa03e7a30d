"""Class stores: import data into them, list them, open them.

`import_dataset` is looked up when it is first used (PEP 562), so that `import distmeta.data` loads neither pyarrow nor
Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distmeta.data.datasets import import_dataset

__all__ = ["import_dataset"]


def __getattr__(name: str) -> Any:
    if name == "import_dataset":
        from distmeta.data.datasets import import_dataset

        globals()[name] = import_dataset
        return import_dataset
    raise AttributeError(f"module 'distmeta.data' has no attribute {name!r}")
