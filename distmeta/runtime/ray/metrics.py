"""Gauges of a run among Ray's metrics, which each node serves to Prometheus.

Ray sends them to the agent of the driver's node every few seconds. Where there is no agent, nobody reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

PREFIX = "distmeta_"
"""Ray puts `ray_` before it."""


class Gauges:
    """Gauges by name and labels, made when they are first set."""

    def __init__(self) -> None:
        self._gauges: dict[tuple[str, tuple[str, ...]], Gauge] = {}

    def set(self, values: Mapping[str, float], **labels: str) -> None:
        """Set gauges `distmeta_NAME` with these labels."""
        for name, value in values.items():
            key = name, tuple(labels)
            if key not in self._gauges:
                self._gauges[key] = Gauge(PREFIX + name, tag_keys=tuple(labels))
            self._gauges[key].set(value, tags=labels)
