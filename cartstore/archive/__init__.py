"""The record in PostgreSQL: orders, payments, the stock ledger and the feed of events."""

from cartstore.archive.repository import Archive
from cartstore.archive.schema import migrate

__all__ = ["Archive", "migrate"]
