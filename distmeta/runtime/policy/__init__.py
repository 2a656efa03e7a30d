"""Scheduling and failure policies: pure functions and state machines that import no Ray."""
