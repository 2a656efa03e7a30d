"""Sine-wave tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distmeta.config.tasks import SinusoidTasks
from distmeta.core.errors import UserError
from distmeta.tasks.sinusoid import SinusoidSource, waves


def test_targets_are_the_sine_wave_of_the_task() -> None:
    config = SinusoidTasks()
    source = SinusoidSource(config, 0, torch.float64)
    specs = source.specs("train", 0, 50)
    episode = source.episodes(specs)
    amplitude, phase = waves(config, np.array([spec.seed for spec in specs], dtype=np.uint64))
    for batch in (episode.support, episode.query):
        x, y = batch.inputs.numpy()[..., 0], batch.targets.numpy()[..., 0]
        assert x.shape == (50, 10)
        np.testing.assert_allclose(y, amplitude * np.sin(x - phase), rtol=1e-12)
    assert not torch.equal(episode.support.inputs, episode.query.inputs)


def test_waves_and_inputs_fill_their_ranges() -> None:
    config = SinusoidTasks(amplitude=(1.0, 2.0), phase=(-0.5, 0.5), inputs=(3.0, 4.0), eval_queries=20)
    source = SinusoidSource(config, 0, torch.float32)
    specs = source.specs("val", 0, 500)
    amplitude, phase = waves(config, np.array([spec.seed for spec in specs], dtype=np.uint64))
    x = source.episodes(specs).query.inputs.numpy()
    assert x.shape == (500, 20, 1)
    for values, low in ((amplitude, 1.0), (phase, -0.5), (x, 3.0)):
        assert low <= values.min() < low + 0.02
        assert low + 0.98 < values.max() <= low + 1.0
    assert abs(np.corrcoef(amplitude[:, 0], phase[:, 0])[0, 1]) < 0.2


@pytest.mark.parametrize("field", ["amplitude", "phase", "inputs"])
def test_reversed_ranges_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=rf"tasks\.{field}: \(2\.0, 1\.0\); allowed: \(low, high\)"):
        SinusoidSource(SinusoidTasks(**{field: (2.0, 1.0)}), 0, torch.float32)


def test_a_fixed_amplitude_is_allowed() -> None:
    source = SinusoidSource(SinusoidTasks(amplitude=(2.0, 2.0)), 0, torch.float32)
    assert float(source.episodes(source.specs("test", 0, 20)).query.targets.abs().max()) <= 2.0
