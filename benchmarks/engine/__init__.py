"""The engine beside its peers: speed, memory, precision."""
