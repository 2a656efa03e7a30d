"""Data types, tensors, random numbers, errors, logging and paths. Imports no other package of distmeta."""
