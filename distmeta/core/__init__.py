"""Data types, tensors, random numbers, errors, logs and places. Imports nothing else of the package."""
