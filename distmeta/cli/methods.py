"""`distmeta methods`: the methods that there are."""

from __future__ import annotations

from distmeta.cli.output import JsonOption, print_json, print_table
from distmeta.methods import METHODS

EXAMPLES = """\b
Examples:
  distmeta methods
  distmeta methods --json
"""


def methods(as_json: JsonOption = False) -> None:
    """List the methods: what adapts to a task, what the outer signal is made of, paper, preset and job."""
    rows = []
    for name, preset in METHODS.items():
        algorithm = preset.make()
        rows.append(
            {
                "method": preset.title,
                "learner": algorithm.learner.kind,
                "estimator": algorithm.estimator.kind,
                "paper": preset.paper,
                "preset": f"methods.{name}()",
                "job": preset.job,
            }
        )
    if as_json:
        print_json({"methods": rows})
        return
    print_table(rows)
