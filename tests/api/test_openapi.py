"""The OpenAPI document: complete, and true of what the application does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from cartstore_api.app import create_app
from cartstore_api.problems import KINDS
from conftest import ADDRESS, bearer, nobody_hears, serving
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from litestar import Litestar
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from cartstore import open_store
from cartstore.settings import Settings

EXAMPLES_PER_OPERATION = 8
METHODS = {"get", "put", "post", "patch", "delete"}


class _Server:
    """An application on a loop of its own: Hypothesis calls it from tests that are not coroutines."""

    def __init__(self, app: Litestar) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._lifespan = serving(app)
        self.run(self._lifespan.__aenter__())
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop.test")

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def request(self, method: str, url: str, **named: Any) -> httpx.Response:
        answer: httpx.Response = self.run(self._client.request(method, url, **named))
        return answer

    def close(self) -> None:
        self.run(self._client.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def server(settings: Settings) -> Iterator[_Server]:
    app = create_app(settings, open_store=lambda chosen: open_store(chosen, doorbell=nobody_hears))
    server = _Server(app)
    yield server
    server.close()


@pytest.fixture
def document(server: _Server) -> Any:
    return server.request("GET", "/schema/openapi.json").json()


def _operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method, path, operation


def test_document_describes_everything(document: Any) -> None:
    operations = list(_operations(document))

    assert len(operations) >= 38
    assert len({operation["operationId"] for _, _, operation in operations}) == len(operations)
    named = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert len(operation["description"]) > 20, where
        assert set(operation["tags"]) <= named, where
        for status, answer in operation["responses"].items():
            assert answer["description"], (where, status)
            if int(status) >= 400 and not path.startswith("/health/"):
                assert list(answer["content"]) == ["application/problem+json"], (where, status)
        for parameter in operation["parameters"]:
            described = parameter
            if "$ref" in parameter:
                described = document["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
            assert described["name"], where
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name


def test_document_names_headers_and_security_of_mutations(document: Any) -> None:
    for method, path, operation in _operations(document):
        references = {parameter.get("$ref", "").rpartition("/")[2] for parameter in operation["parameters"]}
        if path == "/v1/checkout":
            assert "CheckoutKey" in references
        if path.startswith("/v1/cart") and method != "get" and path != "/v1/cart/changes/check":
            assert {"CartToken", "IdempotencyKey", "IfMatch", "Prefer"} <= references, path
        if path.startswith("/v1/admin"):
            assert operation["security"] == [{"bearer": []}], path


def _resolved(document: Any, node: Any) -> Any:
    while "$ref" in node:
        found = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        node = found
    return node


def _schemas_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema of the document, nested ones too."""
    if isinstance(node, dict):
        yield node
        for member in node.values():
            yield from _schemas_in(member)
    elif isinstance(node, list):
        for member in node:
            yield from _schemas_in(member)


def test_answers_are_one_named_schema_each(document: Any) -> None:
    for method, path, operation in _operations(document):
        for status, answer in operation["responses"].items():
            for media, content in answer.get("content", {}).items():
                if "json" not in media:
                    continue
                assert list(content["schema"]) == ["$ref"], (method, path, status)
                assert "oneOf" not in _resolved(document, content["schema"]), (method, path, status)


def test_nullable_members_have_their_bounds_inside(document: Any) -> None:
    null = {"type": "null"}
    nullable = [schema for schema in _schemas_in(document) if null in schema.get("oneOf", ())]

    assert len(nullable) > 50
    for schema in nullable:
        assert set(schema) <= {"oneOf", "description", "examples"}, schema
        assert [choice == null for choice in schema["oneOf"]] == [False, True], schema
    for schema in _schemas_in(document):
        assert not isinstance(schema.get("type"), list), schema
        assert "anyOf" not in schema, schema
        assert None not in schema.get("enum", ()), schema
    prices = document["components"]["schemas"]["PutVariant"]["properties"]["prices"]
    assert prices["oneOf"][0]["additionalProperties"]["pattern"]


def test_parameters_are_never_null_and_required_ones_say_so(document: Any) -> None:
    required = set()
    for method, path, operation in _operations(document):
        for parameter in operation["parameters"]:
            found = _resolved(document, parameter)
            assert "null" not in str(found["schema"]), (method, path, found["name"])
            if found["in"] == "header" and found["required"]:
                required.add((operation["operationId"], found["name"]))

    assert required == {("BeginCheckout", "Idempotency-Key")}


def test_public_routes_say_that_they_are(document: Any) -> None:
    public = {path for _, path, operation in _operations(document) if operation["security"] == []}

    assert {"/v1/guest", "/v1/products", "/v1/products/{product_id}", "/v1/stock/{sku}"} <= public
    assert {"/metrics", "/health/live", "/v1/webhooks/{gateway_name}"} <= public
    assert not any(path.startswith(("/v1/cart", "/v1/orders", "/v1/admin")) for path in public)


def test_times_have_their_format(document: Any) -> None:
    times = 0
    for name, schema in document["components"]["schemas"].items():
        for member, found in schema.get("properties", {}).items():
            if (member == "at" or member.endswith("_at")) and found:
                assert '"date-time"' in str(found).replace("'", '"'), (name, member)
                times += 1

    assert times >= 15


def test_problems_name_their_codes_and_headers(document: Any) -> None:
    for method, path, operation in _operations(document):
        for status, answer in operation["responses"].items():
            if "application/problem+json" not in answer.get("content", {}):
                continue
            where = (method, path, status)
            assert answer["x-codes"], where
            assert all(KINDS[code].status == int(status) for code in answer["x-codes"]), where
            assert all(f"`{code}`" in answer["description"] for code in answer["x-codes"]), where
            if status in ("503", "504"):
                assert answer["headers"]["Retry-After"]["required"], where
    add = document["paths"]["/v1/cart/items"]["post"]["responses"]
    assert "INSUFFICIENT_STOCK" in add["409"]["x-codes"]
    assert "FORBIDDEN" not in add["403"]["x-codes"]


def test_routes_are_all_in_the_document(server: _Server, document: Any) -> None:
    app = create_app(Settings(jwt_secret="x" * 40))

    served = {
        (method.lower(), route.path_format)
        for route in app.routes
        for method in getattr(route, "methods", ())
        if method != "OPTIONS" and not route.path_format.startswith("/schema") and route.path_format != "/"
    }

    assert served == {(method, path) for method, path, _ in _operations(document)}


def test_bodies_may_be_absent_where_the_document_says_so(server: _Server, document: Any) -> None:
    optional = [
        path
        for method, path, operation in _operations(document)
        if operation.get("requestBody", {}).get("required") is False
    ]

    assert sorted(optional) == [
        "/v1/cart/changes/accept",
        "/v1/cart/changes/check",
        "/v1/cart/validate",
    ]
    for path in optional:
        for content in (b"", b"null", b"{}"):
            answer = server.request("POST", path, content=content, headers=bearer("ana"))
            assert answer.status_code == 200, (path, content)


def test_document_is_valid_openapi(document: Any) -> None:
    schema = schemathesis.openapi.from_dict(document)

    schema.validate()
    jsonschema_rs.validator_for(
        document["components"]["schemas"]["Problem"] | {"components": document["components"]}
    )
    assert document["openapi"].startswith("3.1")


def _shop(server: _Server, caller: dict[str, str]) -> dict[str, str]:
    """A product, stock, an order and a line of this caller's; what each kind of path names of them."""

    def done(method: str, path: str, **named: Any) -> Any:
        answer = server.request(
            method, path, headers={**caller, "Idempotency-Key": f"{named}"[:200]}, **named
        )
        assert answer.is_success, answer.text
        return answer.json()

    product = {"title": "Mug", "variants": [{"sku": "MUG", "price": "9.99"}]}
    done("PUT", "/v1/admin/products/mug", json=product)
    done("PUT", "/v1/admin/stock/MUG", json={"on_hand": 1_000, "reason": "r", "reference": "first"})
    done("PUT", "/v1/cart/items", json={"items": [{"sku": "MUG", "quantity": 1}]})
    body = {"gateway": "simulated", "payment_method": "card", "shipping_address": ADDRESS}
    checkout = done("POST", "/v1/checkout", json=body)
    done("POST", "/v1/cart/items", json={"sku": "MUG"})
    return {
        "sku": "MUG",
        "product_id": "mug",
        "line_id": "MUG",
        "order_id": checkout["orders"][0]["order_id"],
        "payment_id": checkout["payment"]["id"],
        "gateway_name": "simulated",
        "cart_id": "u.root",
    }


def test_answers_are_those_of_the_document_when_something_is_bought(server: _Server, document: Any) -> None:
    caller = bearer("root", "admin")
    schema = schemathesis.openapi.from_dict(document)
    known = _shop(server, caller)
    server.request("POST", "/v1/cart/items", json={"sku": "MUG", "properties": {"a": [1]}}, headers=caller)
    product = {
        "title": "Mug!",
        "images": ["https://img.test/m.jpg"],
        "variants": [{"sku": "MUG", "price": "12"}],
    }
    server.request("PUT", "/v1/admin/products/mug", json=product, headers=caller)
    calls: list[tuple[str, str, Any, int]] = [
        ("GET", "/v1/cart", None, 200),
        ("GET", "/v1/cart/summary", None, 200),
        ("POST", "/v1/cart/validate", {}, 200),
        ("POST", "/v1/cart/holds/extend", None, 200),
        ("POST", "/v1/cart/items", {"sku": "MUG", "quantity": 3}, 201),
        ("POST", "/v1/cart/items", {"sku": "MUG", "quantity": 5_000}, 422),
        ("PATCH", "/v1/cart/items/{line_id}", {"quantity": 2}, 200),
        ("PUT", "/v1/cart/items", {"items": [{"sku": "MUG", "quantity": 2}]}, 200),
        ("PUT", "/v1/cart/items", {"items": [{"sku": "X", "quantity": 2}]}, 404),
        ("POST", "/v1/cart/changes/accept", None, 200),
        ("GET", "/v1/orders", None, 200),
        ("GET", "/v1/orders/{order_id}", None, 200),
        ("GET", "/v1/payments/{payment_id}", None, 200),
        ("POST", "/v1/payments/{payment_id}/simulate", {"outcome": "fail"}, 200),
        ("POST", "/v1/payments/{payment_id}/confirm", {"outcome": "succeed"}, 200),
        ("POST", "/v1/orders/{order_id}/cancel", None, 409),
        ("GET", "/v1/products", None, 200),
        ("GET", "/v1/products/{product_id}", None, 200),
        ("GET", "/v1/stock/{sku}", None, 200),
        ("GET", "/v1/admin/carts/{cart_id}", None, 200),
        ("DELETE", "/v1/cart/items/{line_id}", None, 200),
        ("DELETE", "/v1/cart", None, 200),
        ("POST", "/v1/guest", None, 201),
    ]

    for method, template, body, status in calls:
        answer = server.request(method, template.format(**known), json=body, headers=caller)

        assert answer.status_code == status, (method, template, answer.text)
        schema[template][method].validate_response(answer)


def test_answers_are_those_of_the_document_when_requests_are_generated(
    server: _Server, document: Any
) -> None:
    admin = bearer("root", "admin")
    known = _shop(server, admin)
    schema = schemathesis.openapi.from_dict(document)
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    statuses: dict[str, set[int]] = {}

    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis_settings(
            max_examples=EXAMPLES_PER_OPERATION,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=st.one_of(
                operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE),
                operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
            ),
            is_known=st.booleans(),
        )
        def ask(case: schemathesis.Case, is_known: bool) -> None:
            for name in case.path_parameters or {}:
                if is_known:
                    case.path_parameters[name] = known[name]
            named = case.as_transport_kwargs(base_url="http://shop.test")
            named.pop("cookies", None)
            made = dict(named.pop("headers", None) or {})
            # As they go over the wire: httpx takes texts in ASCII only.
            sendable = {name: str(value).encode("latin-1", "replace") for name, value in made.items()}
            headers = {**sendable, **admin}
            sent = {
                name: named[name]
                for name in ("json", "content", "data", "params")
                if named.get(name) is not None
            }
            if isinstance(sent.get("data"), bytes | str):
                sent["content"] = sent.pop("data")
            answer = server.request(named["method"], named["url"], headers=headers, **sent)
            statuses.setdefault(case.operation.label, set()).add(answer.status_code)
            case.validate_response(answer, checks=checks)

        ask()

    assert len(statuses) >= 38
    assert sum(any(status < 300 for status in seen) for seen in statuses.values()) > 15
