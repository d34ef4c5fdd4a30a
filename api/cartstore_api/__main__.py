"""`python -m cartstore_api`: serves on an inherited socket (`--fd`) or on an address of its own."""

from __future__ import annotations

import argparse
import gc
import signal
import socket
import sys
from types import FrameType

import uvloop

from cartstore.errors import CartStoreError, ConfigurationError
from cartstore.logs import level_of
from cartstore.settings import load_settings
from cartstore_api.app import Application, create_app
from cartstore_api.connection_limits import raise_descriptor_limit
from cartstore_api.logging import configure_logging
from cartstore_api.server import Server

GARBAGE_OBJECTS = 20_000
"""Net new objects before the collector looks for cycles among the young ones. Requests leave few of them, and
each look is a pause for every request that is under way."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 2 when the settings do not allow it, 3 when the start fails."""
    options = _parser().parse_args(arguments)
    configure_logging()
    try:
        settings = load_settings()
        configure_logging(level_of(settings.log_level))
        return _serve(create_app(settings), options, settings.drain_seconds)
    # The application's life is a task group's, which wraps what prevents its start.
    except* CartStoreError as group:
        error = _first_of(group)
        print(f"cartstore: {error.for_operators}", file=sys.stderr)
        status = 2 if isinstance(error, ConfigurationError) else 3
    return status


def _first_of(group: BaseExceptionGroup[CartStoreError]) -> CartStoreError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CartStoreError)
    return error


def _serve(app: Application, options: argparse.Namespace, drain_seconds: int) -> int:
    raise_descriptor_limit()
    server = Server(app, host=options.host, port=options.port, drain_seconds=drain_seconds)

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # While it serves, uvicorn handles these itself and raises them again when it is done: a clean end, but
    # with the default handlers one that looks like a death. These also hold before it began.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    async def serve() -> None:
        async with app.lifespan():
            # What start-up made is taken out of the collector's sight: none of it becomes garbage, and
            # looking through all of it again and again would be the longest pauses of the process.
            gc.collect()
            gc.freeze()
            gc.set_threshold(GARBAGE_OBJECTS, 20, 100)
            await server.serve([socket.socket(fileno=options.fd)] if options.fd is not None else None)

    uvloop.run(serve())
    return 0 if server.started else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cartstore_api", description="Serve the REST API.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--fd", type=int, metavar="N", help="a listening socket that this process inherited")
    where.add_argument("--host", default="127.0.0.1", metavar="H", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, metavar="P", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
