"""How the API logs: in the form of cartstore.logs, and with lines that are ready already."""

from __future__ import annotations

import logging

from cartstore.logs import FORMATTED, JsonFormatter, set_up_logs


class ReadyLines(JsonFormatter):
    """Passes ready lines through: the access log brings many at once."""

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg) if getattr(record, FORMATTED, False) else super().format(record)


def configure_logging(level: int = logging.INFO) -> None:
    """Send every logger of this process to stderr as JSON."""
    set_up_logs(ReadyLines(), level)
