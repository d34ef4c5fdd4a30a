"""Arguments of a wrong type are refused by their name, before anything is asked of engine or record."""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import pytest

from cartstore import CartStore, Guard, Owner, Product, Settings, Variant, open_store
from cartstore.errors import ConfigurationError, InvalidField
from cartstore.model import Partition, PutItem, PutItemByLine

ANN = Owner("user", "ann")
KEY = {"idempotency_key": "1", "gateway": "simulated", "payment_method": "card"}


class Reached(Exception):
    """Something was asked of a part of the store."""


class NoPart:
    def __getattr__(self, name: str) -> Any:
        def reached(*_: Any, **__: Any) -> None:
            raise Reached(name)

        return reached


@pytest.fixture
def store() -> CartStore:
    nothing = cast(Any, NoPart())
    return CartStore(
        settings=Settings(),
        partition=Partition("main"),
        engine=nothing,
        archive=nothing,
        catalog=nothing,
        outbox=nothing,
        acknowledgement=nothing,
        gateways={"simulated": nothing},
        recovery=nothing,
    )


def product(**fields: Any) -> Product:
    variant = Variant(sku="tee-m", **{"price_minor": 1999, **fields})
    return Product(id="tee", title="Tee", currency="USD", variants=(variant,))


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], str, str]] = [
    ("add_line", ("ann", "tee-m"), {}, "owner", "an Owner, not a str"),
    ("add_line", (None, "tee-m"), {}, "owner", "an Owner, not None"),
    ("add_line", (ANN, 5), {}, "sku", "a str, not an int"),
    ("add_line", (ANN, b"tee-m"), {}, "sku", "a str, not a bytes"),
    ("add_line", (ANN, "tee-m", "2"), {}, "quantity", "an int, not a str"),
    ("add_line", (ANN, "tee-m", 2.0), {}, "quantity", "an int, not a float"),
    ("add_line", (ANN, "tee-m", True), {}, "quantity", "an int, not a bool"),
    ("add_line", (ANN, "tee-m", Decimal(2)), {}, "quantity", "an int, not a Decimal"),
    ("add_line", (ANN, "tee-m"), {"properties": "red"}, "properties", "a mapping or None, not a str"),
    ("add_line", (ANN, "tee-m"), {"properties": []}, "properties", "a mapping or None, not a list"),
    ("add_line", (ANN, "tee-m"), {"guard": "key"}, "guard", "a Guard, not a str"),
    (
        "add_line",
        (ANN, "tee-m"),
        {"guard": Guard(if_match=cast(Any, "3"))},
        "guard.if_match",
        "an int or None",
    ),
    (
        *("set_quantity", (ANN, "tee-m", 1)),
        *(
            {"guard": Guard(idempotency_key=cast(Any, 7))},
            "guard.idempotency_key",
            "a str or None, not an int",
        ),
    ),
    ("read_cart", ("ann",), {}, "owner", "an Owner"),
    ("read_summary", ("ann",), {}, "owner", "an Owner"),
    ("set_quantity", (ANN, "tee-m", "2"), {}, "quantity", "an int"),
    ("set_quantity", ("ann", "tee-m", 2), {}, "owner", "an Owner"),
    ("set_quantity", (ANN, 1, 2), {}, "line_id", "a str"),
    ("remove_line", (ANN, None), {}, "line_id", "a str, not None"),
    ("remove_line", ("ann", "tee-m"), {}, "owner", "an Owner"),
    ("clear_cart", ("ann",), {}, "owner", "an Owner"),
    ("put_lines", (ANN, PutItem(sku="a", quantity=1)), {}, "items", "a sequence, not a PutItem"),
    ("put_lines", (ANN, ["tee-m"]), {}, "items[0]", "a PutItem or a PutItemByLine, not a str"),
    (
        *("put_lines", (ANN, [PutItem(sku="a", quantity=1), PutItem(sku="b", quantity=cast(Any, 1.5))]), {}),
        *("items[1].quantity", "an int, not a float"),
    ),
    (
        *("put_lines", (ANN, [PutItemByLine(line_id="a", quantity=cast(Any, "1"))]), {}),
        *("items[0].quantity", "an int, not a str"),
    ),
    (
        *("put_lines", (ANN, [PutItem(sku="a", quantity=1)]), {"mode": "some"}),
        *("mode", "one of 'all', 'partial', not 'some'"),
    ),
    ("accept_changes", (ANN, "tee-m"), {}, "line_ids", "a sequence or None, not a str"),
    ("validate_cart", (ANN, ["tee-m", 3]), {}, "line_ids[1]", "a str, not an int"),
    ("begin_checkout", (ANN,), {**KEY, "idempotency_key": 1}, "idempotency_key", "a str, not an int"),
    (
        "begin_checkout",
        (ANN,),
        {**KEY, "expected_total": 19.99},
        "expected_total",
        "a str or None, not a float",
    ),
    ("begin_checkout", (ANN,), {**KEY, "if_match": "3"}, "if_match", "an int or None, not a str"),
    ("begin_checkout", ("ann",), KEY, "owner", "an Owner"),
    ("find_checkout", (ANN, 1), {}, "idempotency_key", "a str"),
    ("list_checkouts", (ANN,), {"limit": "10"}, "limit", "an int"),
    ("read_order", (17, ANN), {}, "order_id", "a str"),
    ("read_payment", ("p", "ann"), {}, "owner", "an Owner or None, not a str"),
    (
        "apply_verdict",
        ("p", "success"),
        {},
        "verdict",
        "one of 'succeeded', 'failed', 'pending', not 'success'",
    ),
    ("read_stock", (["tee-m"],), {}, "sku", "a str, not a list"),
    ("adjust_stock", ("tee-m", "10"), {"reason": "r", "reference": "1"}, "delta", "an int, not a str"),
    ("adjust_stock", ("tee-m", 10), {"reason": "r", "reference": 1}, "reference", "a str, not an int"),
    ("set_stock", ("tee-m", 10.0), {"reason": "r", "reference": "1"}, "on_hand", "an int, not a float"),
    ("put_product", ({"id": "tee"},), {}, "product", "a Product, not a dict"),
    (
        "put_product",
        (product(price_minor=19.99),),
        {},
        "product.variants[0].price_minor",
        "an int, not a float",
    ),
    (
        "put_product",
        (product(options={"Size": 5}),),
        {},
        "product.variants[0].options.Size",
        "a str, not an int",
    ),
    ("put_product", (product(policy="none"),), {}, "product.variants[0].policy", "one of 'deny'"),
    ("get_product", (5,), {}, "product_id", "a str"),
    ("find_variant", ("tee", ["M"]), {}, "options", "a mapping or None, not a list"),
    ("stock_of", (product(),), {}, "products", "an iterable, not a Product"),
    ("stock_of", (["tee"],), {}, "products[0]", "a Product, not a str"),
    ("variant_of", (None,), {}, "sku", "a str, not None"),
    ("import_catalog", ("catalog.csv",), {}, "source", "a Path or a bytes, not a str"),
    ("import_catalog", (Path("x"),), {"on_progress": 1}, "on_progress", "a function or None, not an int"),
    ("release_due", ("1",), {}, "limit", "an int"),
    ("unfreeze_sku", (5,), {}, "sku", "a str"),
    ("recover", ("yes",), {}, "on_progress", "a function, not a str"),
]


@pytest.mark.parametrize(
    ("verb", "arguments", "named", "field", "says"),
    WRONG,
    ids=[f"{case[0]}-{case[3]}-{n}" for n, case in enumerate(WRONG)],
)
async def test_argument_is_refused_by_its_name_when_its_type_is_wrong(
    store: CartStore, verb: str, arguments: tuple[Any, ...], named: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        await getattr(store, verb)(*arguments, **named)

    assert caught.value.field == field
    assert f"{field} must be {says}" in caught.value.message


class Sku(StrEnum):
    TEE = "tee-m"


@pytest.mark.parametrize(
    ("verb", "arguments", "named"),
    [
        ("add_line", (ANN, Sku.TEE, 2), {"properties": OrderedDict(colour="red")}),
        ("validate_cart", (ANN, ("tee-m",)), {}),
        ("put_product", (product(options={}),), {}),
        ("put_lines", (ANN, (PutItem(sku="a", quantity=0), PutItemByLine(line_id="b", quantity=1))), {}),
        ("stock_of", ((one for one in [product()]),), {}),
        ("begin_checkout", (ANN,), {**KEY, "line_ids": ["tee-m"], "details": {"contact": {"email": "a@b"}}}),
    ],
)
async def test_argument_is_taken_when_it_is_as_good_as_the_type(
    store: CartStore, verb: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(Reached):
        await getattr(store, verb)(*arguments, **named)


async def test_call_says_what_python_says_when_an_argument_is_missing(store: CartStore) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'idempotency_key'"):
        await cast(Any, store).find_checkout(ANN)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        await cast(Any, store).read_stock("tee-m", colour="red")


@pytest.mark.parametrize(
    ("kind", "id_", "field"), [("user", 5, "id"), ("guest", None, "id"), ("admin", "ann", "kind")]
)
def test_owner_is_refused_when_its_parts_are_wrong(kind: Any, id_: Any, field: str) -> None:
    """Two guests without an id would share one cart."""
    with pytest.raises(InvalidField) as caught:
        Owner(kind, id_)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"settings": "redis://localhost"}, "settings must be Settings, not str"),
        ({"settings": {}}, "settings must be Settings, not dict"),
        ({"data_dir": 5}, "data_dir must be str or Path, not int"),
    ],
)
async def test_open_store_refuses_arguments_of_a_wrong_type(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        async with open_store(**arguments):
            pass
