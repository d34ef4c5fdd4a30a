"""A bare ASGI callable: decodes the body, makes one script call, encodes the answer. No framework, no
authentication, no checks, no headers but the type: the floor under every HTTP figure.

    POST /carts/<cart_id>/items   one call of reserve.lua
    POST /carts/<cart_id>/holds   one call of the service's own cart_add_line, looking at no more than the tag
    GET  /carts/<cart_id>         the service's own cart_read, answered with bytes that were given at start

Served with the same server, loop, parser and flags as the service, over the same kind of connection.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from benchmarks.connections import caller_of
from cartstore.limits import RELEASES_PER_CALL
from cartstore.model import Partition
from cartstore.redis.keys import Keys
from cartstore.redis.scripts import Script, script

RESERVE = Script("reserve", Path(__file__).with_name("reserve.lua").read_text(encoding="utf-8"))
STOCK = 10**12
PACKED_TERMS = "1800000 7200000 2592000000 2147483648 100 2147483648 2147483648 1000000 1 10000"
"""As seeding.TERMS, packed: what packs them would make this process twice as large."""
_JSON = [(b"content-type", b"application/json")]


class Body(msgspec.Struct):
    sku: str
    quantity: int = 1


class Answer(msgspec.Struct):
    sku: str
    quantity: int
    left: int


class Bare:
    """The application. `canned` is what every read answers."""

    def __init__(self, url: str, kind: str, namespace: str, canned: bytes) -> None:
        self._url, self._kind, self._canned = url, kind, canned
        self._keys = Keys(Partition(namespace))
        self._prefix = self._keys.prefix + "bare:"
        self._decode = msgspec.json.Decoder(Body).decode
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        cart_id, *verb = scope["path"].split("/")[2:]
        if scope["method"] == "GET":
            await self._caller.call(
                script("cart_read"),
                (self._keys.gate, self._keys.cart(cart_id)),
                ("", "", RELEASES_PER_CALL, PACKED_TERMS),
            )
            body, status = self._canned, 200
        else:
            data = self._decode(await _body_of(receive))
            if verb == ["holds"]:
                reply = await self._caller.call(
                    script("cart_add_line"),
                    (self._keys.gate, self._keys.cart(cart_id), self._keys.sku(data.sku)),
                    (PACKED_TERMS, data.sku, data.quantity),
                )
                reply = reply[0], data.quantity, 0
            else:
                reply = await self._reserve(cart_id, data)
            if reply[0] == "OK":
                body, status = self._encode(Answer(data.sku, int(reply[1]), int(reply[2]))), 201
            else:
                body, status = self._encode({"left": int(reply[1])}), 409
        headers = [*_JSON, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reserve(self, cart_id: str, data: Body) -> Any:
        return await self._caller.call(
            RESERVE,
            (f"{self._prefix}stock:{data.sku}", f"{self._prefix}cart:{cart_id}"),
            (data.sku, data.quantity),
        )

    async def _live(self, receive: Any, send: Any) -> None:
        async with caller_of(self._kind, self._url) as caller:
            self._caller = caller
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def _body_of(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the baseline.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True, metavar="URL")
    parser.add_argument("--caller", required=True, help="kind of connection (connections.py)")
    parser.add_argument("--namespace", default="main")
    parser.add_argument("--canned", type=Path, help="file with the bytes that reads answer")
    options = parser.parse_args()
    canned = options.canned.read_bytes() if options.canned else b"{}"
    app = Bare(options.engine, options.caller, options.namespace, canned)
    # The flags are those of `python -m cartstore_api`.
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
