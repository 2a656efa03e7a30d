"""Programs without computation, steps of a run, and processes with a share of a core."""
