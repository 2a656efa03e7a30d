"""Tracing and compiling the operations of estimators."""
