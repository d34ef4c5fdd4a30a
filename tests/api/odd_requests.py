"""Odd requests, made from a seed: each number of a seed is one request, always the same.

Bodies with odd numbers, texts, depths, encodings and duplicated members; odd headers, cookies, tokens, paths
and queries. The framing is right: wrong lengths and broken heads are tested elsewhere.
`MINE`, `GUEST`, `OTHERS` and `FORGED` stand for tokens: of the caller who sends the request, of a guest, of
another issuer, and one with another signature.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

MINE, GUEST, OTHERS, FORGED = b"{mine}", b"{guest}", b"{others}", b"{forged}"
FRONT = "https://front.example"

Header = tuple[bytes, bytes]


class OddRequest(NamedTuple):
    method: bytes
    target: bytes
    headers: list[Header]
    body: bytes
    is_chunked: bool
    has_line: bool
    """Whether the caller's cart has a line before."""

    @property
    def is_of_cart(self) -> bool:
        return self.target.startswith(b"/v1/cart")

    @property
    def is_of_shop(self) -> bool:
        """Whether it changes what all callers share, so that it does not do the same a second time."""
        return self.target.startswith(b"/v1/admin")

    def bytes_for(self, tokens: dict[bytes, bytes]) -> bytes:
        """The request as the caller with these tokens sends it."""
        headers, body = [*self.headers], self.body
        if self.is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
            middle = len(body) // 2
            pieces = [piece for piece in (body[:middle], body[middle:]) if piece]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif body or self.method in (b"POST", b"PATCH", b"PUT"):
            headers.append((b"content-length", b"%d" % len(body)))
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target), *(b"%b: %b" % header for header in headers)]
        head = b"\r\n".join([*lines, b"", b""])
        for name, token in tokens.items():
            head = head.replace(name, token)
        return head + body


NUMBERS = [
    *(b"1", b"1", b"2", b"3", b"0", b"-1", b"-0", b"99", b"100", b"1.0", b"2.5", b"1e0", b"1E2", b"1e-1"),
    *(b"1e400", b"-1e-400", b"1e999999999", b"0.1", b"9007199254740993", b"2147483648", b"4294967297"),
    *(b"18446744073709551616", b"-9223372036854775809", b"1" * 400, b"0." + b"1" * 400, b"01", b"+1", b".5"),
    *(b"1.", b"0x1", b"1_0", b"NaN", b"Infinity", b"-Infinity", "١".encode(), b"1e", b"--1", b"- 1"),
]
LITERALS = [b"true", b"false", b"null", b"True", b"None", b"nil", b"undefined", b"", b"[]", b"{}", b"[[]]"]
TEXTS = [
    *(b"MUG", b"MUG", b"RARE", b"NOPE", b"mug", b"", b" ", b" MUG ", b"p-MUG", b"..", b"M/U", b"M%55G"),
    *(b"\\u0000", b"M\\u0000G", b"\\ud800", b"\\udfff\\ud800", b"\\ud83d\\ude00", b"\\ufeffMUG", b"\\u0085"),
    *(b"\\u001b[31m", b"\\u202e", b"\\/", b"\\x", b"\\u12", b"\\", b'\\"', b"\\n", b"\xff", b"\xc0\x80"),
    *(b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbfMUG", b"\x01", b"\n", b"\t", b"\x7f", b"\x00"),
    *("漢字".encode(), "a\u0301".encode(), "\u2028".encode(), b"M" * 127, b"M" * 129, b"M" * 5_000),
    *(b"'; DROP TABLE orders;--", b"${jndi:ldap://x}", b"__proto__", b"<script>", b"%s%n", b"{mg:0}", b"-1"),
]
DEPTHS = [
    *(range(1, 2), range(2, 28), range(28, 37), range(28, 37), range(28, 37), range(37, 900)),
    # Where Python's own limit ends a recursion, which depends on how deep the caller is already.
    *(range(925, 995), range(925, 995), range(973, 987)),
    range(1_000, 30_000),
]
CONTENT_TYPES = [
    *(b"application/json", b"application/json", b"application/json", b"application/json; charset=utf-8"),
    *(b"Application/JSON;charset=UTF-8", b"application/json; charset=latin-1", b"application/json;charset="),
    *(b"application/merge-patch+json", b"application/x-json", b"text/plain", b"text/csv", b"", b"json\xff"),
    *(b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"application/json, x"),
    *(b"multipart/form-data", b"application/msgpack", b'application/json; charset="utf-8"', b"*/*"),
]
CODINGS = [b"identity", b"gzip", b"br", b"identity, identity", b"", b",", b"gzip\xff", b"deflate, gzip"]
VERSIONS = [
    *(b"*", b'"1"', b"1", b"0", b'"0"', b'W/"1-ab"', b'"1", "2"', b'"x", "y"', b"", b" ", b",", b'"', b'"1'),
    *(
        b"1-a",
        b"\xb2",
        b"9" * 16,
        b"9" * 17,
        b"-1",
        b'*, "1"',
        b'"a,b", "1"',
        b"1e3",
        b'"1-' + b"a" * 65 + b'"',
    ),
]
KEYS = [
    *(
        b"k1",
        b'"k1"',
        b'""',
        b"",
        b"k" * 255,
        b"k" * 256,
        b'"k',
        b'"a\\"b"',
        b'"a\\b"',
        b"\xe9",
        b"a b",
        b",",
    ),
    *(b"'k'", b'k"', b"\ta", b"{}", b"%00"),
]
PREFERENCES = [
    *(b"return=representation", b"return=minimal", b'Return = "Representation";a=1', b"respond-async", b","),
    *(b"x, return=representation", b"return", b"=", b"\xff", b'"return=representation"'),
]
ORIGINS = [
    *(FRONT.encode(), b"http://shop.test", b"https://evil.example", b"null", b"", b"http://shop.test:80"),
    *(b"http://[bad", b"\xff", b"http://shop.test@evil.example", b"//shop.test", b"HTTP://SHOP.TEST", b"a b"),
]
SITES = [b"same-origin", b"same-site", b"cross-site", b"none", b"", b"Same-Origin", b"\xff", b"x"]
AUTHORIZATIONS = [
    *(b"", b"Bearer", b"Bearer ", b"bearer " + MINE, b"BEARER   " + MINE + b"  ", b"Bearer " + OTHERS),
    *(b"Basic eDp5", b"Bearer a.b.c", b"Bearer " + MINE + b", Bearer x", b"Bearer " + b"a" * 5_000, b"\xff"),
    *(b"Bearer {forged}", b"Bearer ..", b"Bearer e30.e30.", b"Bearer " + b"[" * 3_000, b"Token " + MINE),
    *(b"Bearer\t" + MINE, b'Bearer "' + MINE + b'"', b"Bearer \xc3\xa9", b"Bearer " + GUEST),
]
GUEST_TOKENS = [
    *(GUEST, GUEST, b"", b"x", b"\xff" * 52, b"A" * 52, GUEST + b"A", b'"' + GUEST + b'"', b" ", b"=" * 52),
    *(b"{guest}, {guest}", b"-" * 52, b"A" * 5_000),
]
COOKIES = [
    *(b"cart=" + GUEST, b"cart=x; cart=" + GUEST, b"cart=" + GUEST + b"; cart=x", b'cart="' + GUEST + b'"'),
    *(b"cart", b"=", b";;;", b"a=1; cart=; =x", b"Cart=" + GUEST, b"__Host-cart=" + GUEST, b"cart=\xff%zz"),
    *(b"cart = " + GUEST, b"", b"cart=" + b"A" * 4_000, b"; ".join([b"cart=" + b"A" * 52] * 50), b"cart=a=b"),
]
IDS = [
    *(b"MUG", b"MUG", b"MUG", b"NOPE", b"M%55G", b"M%2FG", b"M%00G", b"%", b"%zz", b"%C0%AF", b"%ff", b".."),
    *(
        b".",
        b"...",
        b"%2e%2e",
        b"a;b=c",
        b"a:b",
        b"~",
        b"@",
        b"MUG/",
        b"MUG/x",
        b"MUG//",
        b"/MUG",
        b"",
        b"M" * 200,
    ),
    *(
        b"M" * 3_000,
        b"%F0%9F%98%80",
        b"%ED%A0%80",
        b"\xc3\xa9",
        b"\xff",
        b"*",
        b"a+b",
        b"a%20b",
        b"%0d%0aX:y",
    ),
    *(b"%25", b"MUG%3Fq", b"MUG?", b"|", b"[", b"{}", b"^", b"`", b"'", b"$", b"!", b"MUG\\", b"mug"),
]
QUERIES = [
    *(
        b"",
        b"",
        b"",
        b"",
        b"",
        b"?",
        b"?x=1",
        b"?quantity=9&sku=X",
        b"?&&=",
        b"?%",
        b"?%00",
        b"?a=%ff",
        b"??",
    ),
    *(
        b"?limit=0",
        b"?limit=1",
        b"?limit=99999",
        b"?limit=-1",
        b"?limit=1e2",
        b"?limit=",
        b"?limit=1&limit=2",
    ),
    *(
        b"?cursor=x",
        b"?cursor=%00",
        b"?cursor=" + b"a" * 600,
        b"?q=%F0%9F%98%80",
        b"?q=%ED%A0%80",
        b"?q=a%00",
    ),
    *(
        b"?seller=%",
        b"?status=paid",
        b"?status=x",
        b"?after=1-1",
        b"?after=x",
        b"?from=x",
        b"?by=hour",
        b"?\xff",
    ),
    *(b"?q=" + b"a" * 3_000, b"?#x", b"#x", b"?q[]=1", b"?q=\\u0000", b"?limit=%D9%A1", b"?ticket=1"),
]
PATHS = [
    *(
        b"/",
        b"//",
        b"/v1",
        b"/v1/",
        b"/v1/cart/",
        b"/v1//cart",
        b"/V1/CART",
        b"/v1/%63art",
        b"/v1/cart/../cart",
    ),
    *(b"/./v1/cart", b"/v1/cart;x", b"/v1/cart%00", b"/v1/cart%2Fitems", b"/v1/cart/items/", b"/v1/cart/x"),
    *(
        b"http://shop.test/v1/cart",
        b"*",
        b"/\xff",
        b"/%",
        b"/v1/cart/holds/extend/",
        b"/v1/guest/x",
        b"/..%2f",
    ),
    *(
        b"/schema",
        b"/schema/openapi.json",
        b"/schema/nope",
        b"/health/live",
        b"/health/ready",
        b"/health/nope",
    ),
    *(
        b"/" + b"a" * 3_000,
        b"/" + b"a/" * 500,
        b"/v1/cart/summary/",
        b"/favicon.ico",
        b"/.git/config",
        b"/v1/cart ",
    ),
]
METHODS = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PROPFIND",
    b"SEARCH",
]
OTHER_ROUTES: list[tuple[bytes, bytes, str]] = [
    (b"PUT", b"/v1/cart/items", "put"),
    (b"PUT", b"/v1/cart/items", "put"),
    (b"DELETE", b"/v1/cart", ""),
    (b"POST", b"/v1/cart/validate", "chosen"),
    (b"POST", b"/v1/cart/changes/accept", "chosen"),
    (b"POST", b"/v1/cart/changes/check", "chosen"),
    (b"POST", b"/v1/cart/holds/extend", ""),
    (b"POST", b"/v1/guest", ""),
    (b"POST", b"/v1/checkout", "checkout"),
    (b"POST", b"/v1/checkout", "checkout"),
    (b"POST", b"/v1/checkout", "checkout"),
    (b"GET", b"/v1/orders", ""),
    (b"GET", b"/v1/orders/<id>", ""),
    (b"POST", b"/v1/orders/<id>/cancel", ""),
    (b"GET", b"/v1/payments/<id>", ""),
    (b"POST", b"/v1/payments/<id>/simulate", "simulate"),
    (b"POST", b"/v1/payments/<id>/confirm", "any"),
    (b"POST", b"/v1/webhooks/<id>", "any"),
    (b"POST", b"/v1/webhooks/simulated", "any"),
    (b"GET", b"/v1/products", ""),
    (b"GET", b"/v1/products/<id>", ""),
    (b"GET", b"/v1/stock/<id>", ""),
    (b"PUT", b"/v1/admin/products/<id>", "product"),
    (b"POST", b"/v1/admin/products/import", "any"),
    (b"POST", b"/v1/admin/stock/<id>/adjust", "adjust"),
    (b"POST", b"/v1/admin/stock/adjust", "any"),
    (b"PUT", b"/v1/admin/stock/<id>", "adjust"),
    (b"GET", b"/v1/admin/stock/<id>/ledger", ""),
    (b"GET", b"/v1/admin/orders", ""),
    (b"GET", b"/v1/admin/orders/<id>", ""),
    (b"POST", b"/v1/admin/orders/<id>/fulfilment", "any"),
    (b"GET", b"/v1/admin/carts/<id>", ""),
    (b"GET", b"/v1/admin/events", ""),
    (b"GET", b"/v1/admin/stats", ""),
    (b"POST", b"/v1/admin/orders/<id>/refunded", ""),
]


def odd_request(seed: int, number: int) -> OddRequest:
    """The request with this number."""
    random = Random(f"{seed}:{number}")
    kind = random.random()
    is_admin = False
    if kind < 0.03:
        # Nothing is odd but the depth, so that what comes behind the first looks at a request is reached.
        depth = random.choice(random.choice(DEPTHS))
        value = b"[" * depth + random.choice((b"1", b'"\\u00e9"', b"")) + b"]" * depth
        body = b'{"sku":"MUG","properties":{"note":%b}}' % value
        headers = [(b"host", b"shop.test"), (b"authorization", b"Bearer " + MINE), _JSON]
        return OddRequest(b"POST", b"/v1/cart/items", headers, body, False, random.random() < 0.5)
    if kind < 0.3:
        method, target, body = b"POST", b"/v1/cart/items", _body(random, _add_item)
    elif kind < 0.42:
        method, target, body = b"PATCH", b"/v1/cart/items/" + _id(random), _body(random, _set_quantity)
    elif kind < 0.5:
        method, target, body = b"DELETE", b"/v1/cart/items/" + _id(random), b""
    elif kind < 0.62:
        method, target, body = b"GET", random.choice((b"/v1/cart", b"/v1/cart", b"/v1/cart/summary")), b""
    elif kind < 0.72:
        method, target, body = random.choice(METHODS), random.choice(PATHS), b""
        body = _body(random, _add_item) if random.random() < 0.3 else b""
    else:
        method, path, shape = random.choice(OTHER_ROUTES)
        target = path.replace(b"<id>", _id(random))
        body = _body(random, SHAPES[shape]) if shape else b""
        is_admin = b"admin" in path and random.random() < 0.9
    if random.random() < 0.15:
        target += random.choice(QUERIES)
    if random.random() < 0.04:
        method = random.choice(METHODS)
    headers = _headers(random, has_body=bool(body), is_checkout=target == b"/v1/checkout")
    if is_admin:
        headers = [*(header for header in headers if header[0] != b"authorization"), _ADMIN]
    return OddRequest(
        method, target, headers, body, bool(body) and random.random() < 0.08, random.random() < 0.5
    )


_JSON = (b"content-type", b"application/json")
_ADMIN = (b"authorization", b"Bearer {admin}")


def _headers(random: Random, *, has_body: bool, is_checkout: bool) -> list[Header]:
    headers: list[Header] = [(b"host", b"shop.test")]
    caller = random.random()
    if caller < 0.55:
        headers.append((b"authorization", b"Bearer " + MINE))
    elif caller < 0.65:
        headers.append((b"x-cart-token", random.choice(GUEST_TOKENS)))
    elif caller < 0.8:
        headers.append((b"cookie", random.choice(COOKIES)))
        if random.random() < 0.2:
            headers.append((b"cookie", random.choice(COOKIES)))
    elif caller < 0.92:
        headers.append((b"authorization", random.choice(AUTHORIZATIONS)))
    if has_body and random.random() < 0.9:
        is_usual = random.random() < 0.85
        headers.append((b"content-type", b"application/json" if is_usual else random.choice(CONTENT_TYPES)))
    if is_checkout and random.random() < 0.9:
        headers.append((b"idempotency-key", b"k%d" % random.randrange(10**9)))
    for name, values, share in (
        (b"if-match", VERSIONS, 0.06),
        (b"if-none-match", [*VERSIONS, *[b"*", b'"x", *', b'*, "x"'] * 4], 0.1),
        (b"idempotency-key", KEYS, 0.06),
        (b"prefer", PREFERENCES, 0.06),
        (b"origin", ORIGINS, 0.12),
        (b"sec-fetch-site", SITES, 0.08),
        (b"content-encoding", CODINGS, 0.03),
        (b"content-type", CONTENT_TYPES, 0.02),
        (b"x-cart-token", GUEST_TOKENS, 0.02),
        (b"x-order-token", GUEST_TOKENS, 0.02),
        (b"authorization", AUTHORIZATIONS, 0.02),
        (b"x-request-id", [b"me-1", b"", b"a b", b"\xff", b"x" * 129, b"a\tb", b"1;2"], 0.04),
        (b"accept", [b"text/html", b"*/*", b"", b"application/xml", b"\xff", b"a/b;q=x"], 0.04),
        (b"accept-encoding", [b"gzip", b"br, *;q=0", b"\xff"], 0.02),
        (b"access-control-request-method", [b"POST", b"", b"BREW", b"\xff"], 0.02),
        (b"access-control-request-headers", [b"x-evil", b"traceparent", b"\xff"], 0.02),
        (b"traceparent", [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"\xff"], 0.02),
        (b"x-forwarded-for", [b"1.2.3.4", b"\xff, ::1", b""], 0.02),
        (b"x-http-method-override", [b"DELETE"], 0.01),
        (b"forwarded", [b'for="[::1]"', b"\xff"], 0.01),
        (b"range", [b"bytes=0-1", b"x"], 0.01),
        (b"te", [b"trailers"], 0.01),
        (b"x-" + b"n" * 200, [b"v" * 2_000], 0.01),
    ):
        while random.random() < share:
            headers.insert(random.randrange(1, len(headers) + 1), (name, random.choice(values)))
    if random.random() < 0.05:
        headers = [
            (name.title() if random.random() < 0.5 else name.upper(), value) for name, value in headers
        ]
    return headers


def _id(random: Random) -> bytes:
    return random.choice(IDS)


# --- bodies --------------------------------------------------------------------------------------


def _text(random: Random) -> bytes:
    return b'"%b"' % random.choice(TEXTS)


def _number(random: Random) -> bytes:
    return random.choice(NUMBERS)


def _nested(random: Random) -> bytes:
    """One value at the end of many arrays, or of many objects, or of both in turn."""
    depth, kind = random.choice(random.choice(DEPTHS)), random.randrange(4)
    inner = _scalar(random) if random.random() < 0.3 else random.choice((b"1", b'"\\u00e9"', b"{}", b"1.5e3"))
    if kind < 2:
        nested = b"[" * depth + inner + b"]" * depth
    elif kind == 2:
        nested = b'{"a":' * depth + inner + b"}" * depth
    else:
        nested = b'[{"a":' * (depth // 2) + inner + b"}]" * (depth // 2)
    return nested[: random.randrange(len(nested))] if random.random() < 0.05 else nested


def _scalar(random: Random) -> bytes:
    return random.choice((_text, _number, lambda random: random.choice(LITERALS)))(random)


def _any(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.55:
        return _scalar(random)
    if kind < 0.75:
        return _nested(random)
    members = [b"%b:%b" % (_text(random), _scalar(random)) for _ in range(random.randrange(6))]
    return b"{%b}" % b",".join(members) if kind < 0.9 else b"[%b]" % b",".join(map(_scalar, [random] * 5))


Value = Callable[[Random], bytes]


def _members(random: Random, usual: dict[bytes, bytes], odd: dict[bytes, Value]) -> bytes:
    """An object with the usual members; some of them left out, odd, twice, or beside unknown ones."""
    members = list(usual.items())
    for name, value in odd.items():
        if random.random() < 0.45:
            members = [member for member in members if member[0] != name or random.random() < 0.1]
            members.append((name, value(random) if random.random() < 0.8 else _any(random)))
    if random.random() < 0.08 and members:
        members.pop(random.randrange(len(members)))
    if random.random() < 0.08:
        members.append((random.choice(TEXTS), _any(random)))
    if random.random() < 0.06 and members:
        members.append((random.choice(members)[0], _any(random)))
    random.shuffle(members)
    return b"{%b}" % b",".join(b'"%b":%b' % member for member in members)


def _properties(random: Random) -> bytes:
    if random.random() < 0.3:
        # With an escape in a name the texts are looked at, too, which goes as deep as the value does.
        return b'{"%b":%b}' % (random.choice((b"note", b"n\\u006fte")), _nested(random))
    return b"{%b:%b}" % (_text(random), _any(random)) if random.random() < 0.85 else _any(random)


def _add_item(random: Random) -> bytes:
    usual = {b"sku": b'"MUG"'} if random.random() < 0.9 else {b"product_id": b'"p-MUG"'}
    odd: dict[bytes, Value] = {b"quantity": _number, b"properties": _properties}
    if random.random() < 0.2:
        odd |= {b"sku": _text, b"product_id": _text, b"options": _properties}
    return _members(random, usual, odd)


def _set_quantity(random: Random) -> bytes:
    return _members(random, {b"quantity": b"2"}, {b"quantity": _number})


def _put(random: Random) -> bytes:
    items = [_add_item(random) for _ in range(random.randrange(4))]
    return _members(random, {b"items": b"[%b]" % b",".join(items)}, {b"mode": _text})


def _chosen(random: Random) -> bytes:
    return _members(random, {}, {b"line_ids": lambda random: b"[%b]" % _text(random)})


def _checkout(random: Random) -> bytes:
    usual = {
        b"gateway": b'"simulated"',
        b"payment_method": b'"card"',
        b"shipping_address": b'{"street":"1 Main St","city":"Springfield","country":"US"}',
    }
    if random.random() < 0.6:
        return _members(random, {**usual, b"metadata": _properties(random)}, {})
    odd: dict[bytes, Value] = {
        b"metadata": _properties,
        b"contact": _properties,
        b"billing_address": _properties,
        b"expected_total": _scalar,
        b"line_ids": lambda random: b"[%b]" % _text(random),
        b"payment_method": _text,
    }
    return _members(random, usual, odd)


def _simulate(random: Random) -> bytes:
    return _members(random, {b"outcome": b'"succeed"'}, {b"outcome": _text})


def _adjust(random: Random) -> bytes:
    usual = {b"delta": b"1", b"reason": b'"r"', b"reference": b'"r%d"' % random.randrange(10**9)}
    return _members(random, usual, {b"delta": _number, b"reason": _text, b"reference": _text})


def _odd_sku(random: Random) -> bytes:
    """Never one that is sold already: the shop stays the same for all requests."""
    return b'"odd%b"' % random.choice(TEXTS)


def _product(random: Random) -> bytes:
    variant = _members(random, {b"sku": b'"odd"', b"price": b'"1.00"'}, {b"sku": _odd_sku, b"price": _scalar})
    usual = {b"title": b'"T"', b"variants": b"[%b]" % variant}
    return _members(random, usual, {b"title": _text, b"images": _any, b"options": _any, b"seller": _text})


SHAPES: dict[str, Value] = {
    "put": _put,
    "chosen": _chosen,
    "checkout": _checkout,
    "simulate": _simulate,
    "adjust": _adjust,
    "product": _product,
    "any": _any,
}


def _body(random: Random, shape: Value) -> bytes:
    body = shape(random) if random.random() < 0.95 else _any(random)
    if random.random() > 0.12:
        return body
    damage: list[Callable[[], bytes]] = [
        lambda: b"\xef\xbb\xbf" + body,
        lambda: b"\xff\xfe" + body.decode("latin-1").encode("utf-16-le"),
        lambda: body.decode("latin-1").encode("utf-16-be"),
        lambda: body.decode("latin-1").encode("utf-32"),
        lambda: body + body,
        lambda: body + b"\x00",
        lambda: b"\x00" + body,
        lambda: b" \r\n\t" + body + b"\n ",
        lambda: body + b"}",
        lambda: body[: random.randrange(len(body) + 1)],
        lambda: body.replace(b":", b"=", 1),
        lambda: body.replace(b'"', b"'"),
        lambda: body.replace(b"}", b",}"),
        lambda: b"/* x */" + body,
        lambda: body + b" " * 70_000,
        lambda: b"",
        lambda: bytes([random.randrange(256) for _ in range(40)]),
    ]
    return random.choice(damage)()
