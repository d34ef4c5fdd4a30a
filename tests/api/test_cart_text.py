"""Carts are written as text; the shapes of the contract say what must be in it, and in what order."""

from __future__ import annotations

from typing import Any

import msgspec
from cartstore_api import cart_text, schemas

ODD_TITLE = 'A "mug",\\ 12\u2033 \u6f22 \U0001f600 </script>'


def as_shape(body: bytes, shape: Any) -> bytes:
    """The text as its shape has it; a member too many, too few or of another type fails."""
    told = msgspec.json.decode(body, type=shape)
    encoded = msgspec.json.encode(told)
    assert encoded == body
    return encoded


async def test_carts_have_the_contracts_shape_when_lines_are_of_every_kind(api: Any) -> None:
    await api.sell("MUG", stock=10)
    await api.sell("LATE", stock=5, hold_policy="on_checkout")
    await api.sell("FREE", stock=0, policy="untracked")
    await api.sell("ODD", stock=5)
    product = {
        "title": ODD_TITLE,
        "options": ["Sïze"],
        "variants": [{"sku": "ODD", "options": {"Sïze": '"M"'}, "price": "9.99"}],
    }
    await api.done(api.admin.put("/v1/admin/products/p-ODD", json=product))
    bodies = []
    for sku in ("MUG", "LATE", "FREE", "ODD"):
        body = {
            "sku": sku,
            "quantity": 2,
            "properties": {"text": 'né\u2028"x"', "n": 1.5, "list": [None, True]},
        }
        bodies.append((await api.ana.post("/v1/cart/items", json=body)).content)
    bodies.append((await api.ana.post("/v1/cart/items", json={"sku": "MUG"})).content)
    bodies.append((await api.ana.delete("/v1/cart/items/MUG")).content)

    for body in bodies:
        as_shape(body, schemas.LineChange)
    cart = msgspec.json.decode(as_shape((await api.ana.get("/v1/cart")).content, schemas.Cart))
    as_shape((await api.ana.get("/v1/cart/summary")).content, schemas.Summary)
    as_shape((await api.anyone.get("/v1/cart")).content, schemas.Cart)
    as_shape((await api.anyone.get("/v1/cart/summary")).content, schemas.Summary)

    lines = {line["sku"]: line for line in cart["items"]}
    assert (lines["ODD"]["name"], lines["ODD"]["options"]) == (ODD_TITLE, {"Sïze": '"M"'})
    assert lines["ODD"]["properties"] == {"text": 'né\u2028"x"', "n": 1.5, "list": [None, True]}
    assert (lines["LATE"]["hold"], lines["FREE"]["available_quantity"]) == (None, None)


async def test_carts_have_the_contracts_shape_when_the_catalog_changed(api: Any) -> None:
    await api.sell("MUG", stock=10)
    await api.sell("CUP", stock=10)
    for sku in ("MUG", "CUP"):
        await api.add(sku, 2)
    unchanged = await api.ana.get("/v1/cart")
    product = {"title": "Another", "images": [], "variants": [{"sku": "MUG", "price": "12"}]}
    await api.done(api.admin.put("/v1/admin/products/p-MUG", json=product))
    product = {
        "title": "The CUP",
        "images": ["https://img.test/CUP.jpg"],
        "active": False,
        "variants": [{"sku": "CUP", "price": "9.99"}],
    }
    await api.done(api.admin.put("/v1/admin/products/p-CUP", json=product))

    changed = await api.ana.get("/v1/cart")

    assert not msgspec.json.decode(unchanged.content)["has_changes"]
    cart = msgspec.json.decode(as_shape(changed.content, schemas.Cart))
    mug, cup = cart["items"]
    assert mug["changes"] == {
        "price": {"old": "9.99", "new": "12.00"},
        "name": {"old": "The MUG", "new": "Another"},
        "image": {"old": "https://img.test/MUG.jpg", "new": None},
    }
    unavailable = {"availability": {"old": "available", "new": "off_sale"}}
    assert (cup["changes"], cup["is_available"]) == (unavailable, False)
    assert (cart["has_changes"], cart["has_unavailable_items"]) == (True, True)
    assert (cart["subtotal"], cart["total_items"]) == ("19.98", 4)
    assert unchanged.headers["ETag"] != changed.headers["ETag"]
    assert cart["version"] == msgspec.json.decode(unchanged.content)["version"]


async def test_texts_are_kept_up_to_a_bound_when_many_are_told(api: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(cart_text, "FRAGMENTS_MAX", 2)
    for number in range(4):
        await api.sell(f"S{number}")
        await api.add(f"S{number}")

    cart = (await api.ana.get("/v1/cart")).json()

    assert [line["name"] for line in cart["items"]] == [f"The S{number}" for number in range(4)]
    assert len(api.app.state.services.text._fragments) == 2


async def test_etag_stays_when_only_the_countdown_of_a_hold_went_on(api: Any, monkeypatch: Any) -> None:
    await api.sell()
    await api.add()
    first = await api.ana.get("/v1/cart")
    seconds_left = cart_text.views.seconds_left
    monkeypatch.setattr(cart_text.views, "seconds_left", lambda until, now: seconds_left(until, now) - 7)

    later = await api.ana.get("/v1/cart")

    assert later.headers["ETag"] == first.headers["ETag"]
    counted = [answer.json()["items"][0]["hold"]["expires_in_seconds"] for answer in (first, later)]
    assert counted[0] - counted[1] in (7, 8)
