"""Memory settings are accepted where they exist, and do nothing elsewhere."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from distmeta.runtime.memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_glibc_accepts_the_setting() -> None:
    assert keep_freed_memory()


@pytest.mark.thorough
def test_a_process_without_an_object_store_maps_nothing() -> None:
    code = "from distmeta.runtime.memory import prefault_object_store; print(prefault_object_store())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
