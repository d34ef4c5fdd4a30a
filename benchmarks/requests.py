"""The workload as HTTP requests, to the service and to the bare app. Owns how buyers prove who they are."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from typing import Final

import jwt
import msgspec

from benchmarks.seeding import cart_id_of
from benchmarks.servers import SECRET, Served
from benchmarks.workload import Operation, sku_name, user_name
from benchmarks.wrk import MARK, request

TOKEN_SECONDS: Final = 3_600
ADDRESS: Final = {"street": "1 Main Street", "city": "Springfield", "postal_code": "12345", "country": "US"}

Headers = dict[str, str]


def users(carts: int) -> list[Headers]:
    """Signed-in buyers."""
    now = int(time.time())
    return [
        {
            "Authorization": "Bearer "
            + jwt.encode(
                {"sub": user_name(number), "iat": now, "exp": now + TOKEN_SECONDS}, SECRET, algorithm="HS256"
            )
        }
        for number in range(carts)
    ]


def guests(served: Served, carts: int) -> list[Headers]:
    """Guests, with tokens that the service gave them."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    found = []
    for _ in range(carts):
        connection.request("POST", "/v1/guest")
        answer = connection.getresponse()
        found.append({"X-Cart-Token": msgspec.json.decode(answer.read())["token"]})
    connection.close()
    return found


def to_service(served: Served, who: Sequence[Headers], operations: Sequence[Operation]) -> list[bytes]:
    """The operations as requests to the REST API."""
    host = f"127.0.0.1:{served.port}"
    return [_to_service(op, host, who[op.cart]) for op in operations]


def _to_service(op: Operation, host: str, headers: Headers) -> bytes:
    sku = sku_name(op.sku)
    if op.verb == "add":
        body = msgspec.json.encode({"sku": sku, "quantity": op.quantity})
        return request("POST", "/v1/cart/items", host=host, headers=headers, body=body)
    if op.verb == "set":
        body = msgspec.json.encode({"quantity": op.quantity})
        return request("PATCH", f"/v1/cart/items/{sku}", host=host, headers=headers, body=body)
    if op.verb == "remove":
        return request("DELETE", f"/v1/cart/items/{sku}", host=host, headers=headers)
    if op.verb == "read":
        return request("GET", "/v1/cart", host=host, headers=headers)
    body = msgspec.json.encode(
        {"gateway": "simulated", "payment_method": "card", "shipping_address": ADDRESS}
    )
    keyed = {**headers, "Idempotency-Key": f"bench-{MARK}"}
    return request("POST", "/v1/checkout", host=host, headers=keyed, body=body)


def to_bare(
    served: Served, who: Sequence[Headers], operations: Sequence[Operation], verb: str = "items"
) -> list[bytes]:
    """The same number of bytes to the bare app: a read is a read, everything else one reservation."""
    host = f"127.0.0.1:{served.port}"
    found = []
    for op in operations:
        path = f"/carts/{cart_id_of(op.cart)}"
        if op.verb == "read":
            found.append(request("GET", path, host=host, headers=who[op.cart]))
            continue
        body = msgspec.json.encode({"sku": sku_name(op.sku), "quantity": 1})
        found.append(request("POST", f"{path}/{verb}", host=host, headers=who[op.cart], body=body))
    return found


def read_once(served: Served, headers: Headers) -> bytes:
    """The body of this buyer's cart."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("GET", "/v1/cart", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    return body


def reads_of_all(served: Served, who: Sequence[Headers]) -> list[bytes]:
    """One read by every buyer: after it, the service has verified every token and read every text."""
    return to_service(served, who, [Operation("read", number) for number in range(len(who))])
