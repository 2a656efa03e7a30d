"""Accuracy of the methods."""
