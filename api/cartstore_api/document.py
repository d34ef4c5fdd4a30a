"""Completes the OpenAPI document that Litestar makes, so that generators of clients can use it.

Owns how our shapes are described, which is as msgspec decodes and encodes them:

* Nullable members are `oneOf` of the type with all its bounds, and null. Query parameters are never null.
* An answer has one named schema. A generated client that has to choose between several fails after the
  server has committed, and its user repeats the mutation.
* Problems name the codes of their operation, in prose and as `x-codes`, and the headers that come with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Final

import msgspec

from cartstore_api import feed_schemas, problems, schemas
from cartstore_api.examples import BODIES, parameter_example
from cartstore_api.problem_codes import codes_of, codes_of_status

_SHAPES: Final[tuple[ModuleType, ...]] = (schemas, feed_schemas, problems)
_REF: Final = "#/components/schemas/"
_PREFER: Final = {"$ref": "#/components/parameters/Prefer"}

_BESIDE: Final = frozenset({"description", "title", "default", "examples", "deprecated", "discriminator"})
"""Keywords that say something of a member, not of one of its types."""

_PROBLEM_HEADERS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "401": {"WWW-Authenticate": ("string", "How to say who is calling.")},
    "429": {"Retry-After": ("integer", "Seconds to wait before the next try.")},
    "503": {"Retry-After": ("integer", "Seconds to wait before the next try.")},
    "504": {"Retry-After": ("integer", "Seconds to wait before the next try.")},
}


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document, changed in place."""
    shapes = document["components"]["schemas"]
    wanted = set(shapes)
    described = _described()
    shapes.clear()
    shapes.update({name: described[name] for name in _with_referred(wanted, described)})
    preferred: set[str] = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _complete_operation(path, method, operation)
            preferred.update(_changes_of(operation))
    for name in preferred:
        shapes[name] = _with_cart(shapes[name], shapes["Cart"])
    for holder in _schema_holders(document):
        holder["schema"] = _normalised(holder["schema"])
    for name in [*shapes]:
        shapes[name] = _normalised(shapes[name])
    return document


# --- schemas -------------------------------------------------------------------------------------------


def _described() -> dict[str, Any]:
    """All shapes of the contract by name, as msgspec describes them."""
    types = [
        shape
        for module in _SHAPES
        for shape in vars(module).values()
        if isinstance(shape, type) and issubclass(shape, msgspec.Struct)
    ]
    described = msgspec.json.schema_components(types, ref_template=_REF + "{name}")[1]
    for schema in described.values():
        schema["description"] = inspect.cleandoc(schema["description"])
    return described


def _with_referred(names: Iterable[str], described: dict[str, Any]) -> list[str]:
    """These names and those of all schemas that they refer to, in their order."""
    found: set[str] = set()
    left = [*names]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _referred(described[name])
    return sorted(found)


def _referred(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(_REF)
        for member in schema.values():
            yield from _referred(member)
    elif isinstance(schema, list):
        for member in schema:
            yield from _referred(member)


def _normalised(schema: Any) -> Any:
    """A schema in the forms that generators know: no lists of types, no null beside the bounds of a type."""
    if isinstance(schema, list):
        return [_normalised(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {
        name: value if name in _BESIDE else _members(value) if name == "properties" else _normalised(value)
        for name, value in schema.items()
    }
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    # msgspec and Litestar spell a choice in different ways.
    choices = schema.pop("anyOf", None) or schema.pop("oneOf", None)
    if choices is None and isinstance(schema.get("type"), list):
        choices = [{"type": name} for name in sorted(schema.pop("type"), key="null".__eq__)]
    if choices is not None:
        bounds = {name: schema.pop(name) for name in [*schema] if name not in _BESIDE}
        choices = [
            choice if choice == {"type": "null"} or "$ref" in choice else _bounded(choice, bounds)
            for choice in choices
        ]
        if len(choices) == 1:
            return {**choices[0], **schema}
        return {"oneOf": choices, **schema}
    values = schema.get("enum")
    if isinstance(values, list) and "type" not in schema and all(isinstance(one, str) for one in values):
        schema = {"type": "string", **schema}
    for name in ("minimum", "maximum"):
        if schema.get("type") == "integer" and isinstance(schema.get(name), float):
            schema[name] = int(schema[name])
    return schema


def _members(properties: dict[str, Any]) -> dict[str, Any]:
    """The schemas of members, whose names are no keywords."""
    return {name: _normalised(schema) for name, schema in properties.items()}


def _bounded(choice: dict[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
    bounds = dict(bounds)
    if "enum" in bounds:
        bounds["enum"] = [value for value in bounds["enum"] if value is not None]
    return {**choice, **bounds}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that is absent instead of null."""
    schema = _normalised(schema)
    choices = [choice for choice in schema.get("oneOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name != "oneOf"}
    return {**choices[0], **rest}


def _schema_holders(node: Any) -> Iterator[dict[str, Any]]:
    """Everything outside of the named schemas that has a schema: parameters, headers, bodies, answers."""
    if isinstance(node, dict):
        if isinstance(node.get("schema"), dict):
            yield node
        for name, member in node.items():
            if name not in ("schema", "schemas"):
                yield from _schema_holders(member)
    elif isinstance(node, list):
        for member in node:
            yield from _schema_holders(member)


# --- operations ----------------------------------------------------------------------------------------


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    parameters = operation.get("parameters", ())
    for parameter in parameters:
        if parameter.get("in") == "query":
            parameter["schema"] = _without_null(parameter["schema"])
    _give_examples(operation)
    body = operation.get("requestBody")
    content = body["content"].get("application/json") if body else None
    if body and content is not None and {"type": "null"} in content["schema"].get("oneOf", ()):
        body["required"] = False
        content["schema"] = _without_null(content["schema"])
    if path.startswith("/v1/") and parameters:
        # Whatever a path takes, it refuses query parameters that it does not know.
        operation["responses"].setdefault("422", _problem_response("422"))
    _name_codes(path, method, operation)


def _give_examples(operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    for parameter in operation.get("parameters", ()):
        if parameter.get("in") == "path" and (example := parameter_example(name, parameter["name"])):
            parameter["example"] = example
    if name in BODIES:
        # The page shows the first of several types.
        first, *_ = operation["requestBody"]["content"].values()
        first["example"] = BODIES[name]


def _changes_of(operation: dict[str, Any]) -> Iterator[str]:
    """The names of the answers that are the whole cart when the caller prefers that."""
    if _PREFER in operation.get("parameters", ()):
        for answer in operation["responses"].values():
            name = answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
            if name.endswith("Change"):
                yield name.removeprefix(_REF)


def _with_cart(change: dict[str, Any], cart: dict[str, Any]) -> dict[str, Any]:
    """The schema of a change that is also the schema of the whole cart."""
    return {
        **change,
        "description": f"{change['description']} With `Prefer: return=representation` the answer has the "
        "members of Cart instead; `version` is in both.",
        "properties": {**cart["properties"], **change["properties"]},
        "required": ["version"],
    }


def _problem_response(status: str) -> dict[str, Any]:
    return {
        "description": problems.description_of(int(status)),
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}},
    }


def _name_codes(path: str, method: str, operation: dict[str, Any]) -> None:
    """Say of every problem which codes it may have, and which headers come with it."""
    responses = operation["responses"]
    is_admin = path.startswith("/v1/admin/")
    codes: dict[str, dict[str, None]] = {
        status: dict.fromkeys(codes_of_status(status, method=method, is_admin=is_admin))
        for status, answer in responses.items()
        if problems.MEDIA_TYPE in answer.get("content", {})
    }
    for code in codes_of(operation["operationId"]):
        codes.setdefault(str(problems.KINDS[code].status), {})[code] = None
    for status, named in codes.items():
        answer = responses.setdefault(status, _problem_response(status))
        for name, (kind, text) in _PROBLEM_HEADERS.get(status, {}).items():
            headers = answer.setdefault("headers", {})
            headers[name] = {"description": text, "required": True, "schema": {"type": kind}}
        if named:
            answer["description"] += " Codes: " + ", ".join(f"`{code}`" for code in named) + "."
        answer["x-codes"] = [*named]
