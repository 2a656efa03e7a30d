"""Scheduling and failure policies: pure functions and state machines that know no Ray."""
