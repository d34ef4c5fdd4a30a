"""Private servers from wheels: an engine (Valkey) and a database (PostgreSQL), no root, no installation.

`Engine` and `Database` are one server each, on a folder. `embedded_parts` gives a program the servers of
a data dir, `resolve` only finds those that run.
"""

from cartstore.embedded.database import Database
from cartstore.embedded.engine import Engine
from cartstore.embedded.parts import embedded_parts, queue_url_beside, resolve

__all__ = ["Database", "Engine", "embedded_parts", "queue_url_beside", "resolve"]
