"""The collector waits while libraries are imported, and does not look at them afterwards."""

from __future__ import annotations

import gc

from distmeta.core.collector import paused


def test_nothing_is_collected_within_and_nothing_looked_at_after() -> None:
    frozen = gc.get_freeze_count()
    try:
        with paused():
            assert not gc.isenabled()
        assert (gc.isenabled(), gc.get_freeze_count()) == (True, frozen)
        with paused(freeze=True):
            made = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()


def test_a_process_that_has_stopped_its_collector_keeps_it_so() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
