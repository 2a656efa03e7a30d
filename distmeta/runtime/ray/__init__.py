"""The executor over Ray actors: the one place, besides job submission, that imports Ray."""
