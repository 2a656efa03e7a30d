"""What a test logs: pytest's own plugin goes through all loggers six times a test, which takes milliseconds."""

from __future__ import annotations

import logging


class Logged(logging.Handler):
    """Keeps the records of its test."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        return "\n".join(self.format(record) for record in self.records)
