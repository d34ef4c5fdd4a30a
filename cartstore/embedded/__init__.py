"""Private servers from wheels: an engine (Valkey) and a database (PostgreSQL), no root, no installation.

`Engine` and `Database` are one server each, on a folder.
"""

from cartstore.embedded.database import Database
from cartstore.embedded.engine import Engine

__all__ = ["Database", "Engine"]
