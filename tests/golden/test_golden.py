"""Golden runs: scores of a few steps of every method, held to a tolerance (processors differ in the last bits).

After a change that is meant to move them: `python tests/golden/digests.py > tests/golden/expected.json`, and say why in
the commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distmeta.methods import METHODS

from .cases import CASES, run_case

EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))
TOLERANCES = {"ttt": 5e-3}
"""Of scores, where more than 2e-3: steps on one image after the other amplify the last bits (3e-3 without AVX-512)."""
ROWS = [pytest.param(name, marks=() if name in METHODS else pytest.mark.slow) for name in CASES]
"""The first run of each method by default; those that vary it are slow."""


def test_every_method_has_a_golden_run() -> None:
    assert {config.algorithm.method for config in CASES.values()} == set(METHODS)
    assert set(EXPECTED) == set(CASES)


@pytest.mark.parametrize("name", ROWS)
def test_scores_are_those_on_record(name: str, tmp_path: Path) -> None:
    outcome, expected = run_case(name, tmp_path), EXPECTED[name]
    assert outcome.norm == pytest.approx(expected["norm"], rel=1e-4)
    assert set(outcome.scores) == set(expected["scores"])
    for metric, curve in outcome.scores.items():
        tolerance = TOLERANCES.get(name, 2e-3)
        assert curve == pytest.approx(expected["scores"][metric], rel=tolerance, abs=tolerance), metric
