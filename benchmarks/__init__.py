"""Measurements of the engine beside its peers, on this machine."""
