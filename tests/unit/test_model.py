"""The vocabulary: ids, and what the Structs work out from their fields."""

from __future__ import annotations

import re

import msgspec
import pytest

from cartstore.model import (
    EMPTY_SUMMARY,
    ID_PATTERN,
    Cart,
    Line,
    Owner,
    Partition,
    Position,
    Product,
    PutItem,
    StockLevel,
    StockPolicy,
    Variant,
    checkout_ids,
    is_sku,
    line_id_of,
    payment_id_of_order,
    sku_of,
)

PROPERTIES = '{"text":"Ann"}'


@pytest.mark.parametrize("text", ["a", "A-1_b.c~d", "0", "x" * 128, "."])
def test_id_pattern_matches_when_all_characters_are_allowed(text: str) -> None:
    assert ID_PATTERN.match(text)


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a\n", "é", "x" * 129, "a:b", "a\x1fb", "{a}"])
def test_id_pattern_refuses_when_a_character_or_the_length_is_not_allowed(text: str) -> None:
    assert not ID_PATTERN.match(text)


def test_partition_tag_names_namespace_and_index_when_asked() -> None:
    assert Partition("main").tag == "{main:0}"
    assert Partition("shop", 3).tag == "{shop:3}"


def test_cart_id_tells_the_kind_of_owner_when_ids_are_alike() -> None:
    user, guest = Owner("user", "ann"), Owner("guest", "ann")

    assert (user.cart_id, guest.cart_id) == ("u.ann", "g.ann")
    assert (user.is_guest, guest.is_guest) == (False, True)


@pytest.mark.parametrize(
    "user_id", ["ann@example.org", "a b", "", "ünï", "x" * 129, "auth0|1", "~tilde", "a\n"]
)
def test_cart_id_is_a_digest_when_the_user_id_is_no_id(user_id: str) -> None:
    cart_id = Owner("user", user_id).cart_id

    assert re.fullmatch(r"u\.~[0-9a-f]{40}", cart_id)
    assert ID_PATTERN.match(cart_id)


def test_cart_ids_differ_when_one_user_id_looks_like_the_digest_of_another() -> None:
    digest = Owner("user", "a b").cart_id.removeprefix("u.")

    assert Owner("user", digest).cart_id != Owner("user", "a b").cart_id


def test_line_id_is_the_sku_when_there_are_no_properties() -> None:
    assert line_id_of("tee", None) == "tee"
    assert line_id_of("tee", "") == "tee"
    assert sku_of("tee") == "tee"


def test_line_id_leads_back_to_the_sku_when_there_are_properties() -> None:
    line_id = line_id_of("tee-M.1~2", PROPERTIES)

    assert re.fullmatch(r"tee-M\.1~2~~[0-9a-f]{12}", line_id)
    assert sku_of(line_id) == "tee-M.1~2"
    assert line_id == line_id_of("tee-M.1~2", PROPERTIES)
    assert line_id != line_id_of("tee-M.1~2", '{"text":"Ben"}')


@pytest.mark.parametrize("sku", ["tee", "a~~b", "tee~~0123456789ab0", "~~0123456789ab", "tee~~0123456789AB"])
def test_is_sku_accepts_when_no_line_id_looks_like_it(sku: str) -> None:
    assert is_sku(sku)
    assert sku_of(sku) == sku


@pytest.mark.parametrize("sku", ["", "a b", "tee~~0123456789ab", "x" * 129])
def test_is_sku_refuses_when_it_is_no_id_or_looks_like_a_line_id(sku: str) -> None:
    assert not is_sku(sku)


def test_variant_is_found_when_the_product_has_its_sku() -> None:
    product = Product(
        id="tee",
        title="T-Shirt",
        currency="USD",
        variants=(Variant(sku="tee-s", price_minor=1), Variant(sku="tee-m", price_minor=2)),
    )

    found = product.variant("tee-m")

    assert found is not None
    assert found.price_minor == 2
    assert product.variant("tee-l") is None


@pytest.mark.parametrize(
    ("policy", "on_hand", "held", "available"),
    [("deny", 5, 2, 3), ("deny", 2, 5, 0), ("backorder", 5, 2, None), ("untracked", 0, 0, None)],
)
def test_available_is_what_is_not_held_when_stock_limits_sales(
    policy: StockPolicy, on_hand: int, held: int, available: int | None
) -> None:
    level = StockLevel(sku="tee", policy=policy, on_hand=on_hand, held=held, sold=0, backordered=0)

    assert level.available == available


def test_position_is_read_back_when_it_was_written() -> None:
    position = Position(3, 41)

    assert str(position) == "3-41"
    assert Position.parse("3-41") == position


def test_positions_are_ordered_by_epoch_when_they_differ_in_both() -> None:
    assert Position(1, 99) < Position(2, 1) < Position(2, 2)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b"])
def test_position_refuses_when_the_text_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("is_active", "available", "is_available"),
    [
        (True, 3, True),
        (True, 2, True),
        (True, 1, False),
        (True, None, True),
        (False, None, False),
        (False, 9, False),
    ],
)
def test_line_is_available_when_it_is_active_and_there_is_enough(
    is_active: bool, available: int | None, is_available: bool
) -> None:
    line = _line(is_active=is_active, available_quantity=available)

    assert line.is_available is is_available
    assert line.line_total_minor == 2_000


def test_cart_finds_a_line_when_it_has_it() -> None:
    cart = Cart(
        cart_id="u.ann",
        summary=EMPTY_SUMMARY,
        lines=(_line(),),
        created_at_ms=None,
        updated_at_ms=None,
        read_at_ms=0,
    )

    assert cart.line("tee") == _line()
    assert cart.line("pull") is None


def test_put_item_names_its_line_when_it_has_properties() -> None:
    assert PutItem(sku="tee", quantity=1).line_id == "tee"
    assert PutItem(sku="tee", quantity=1, properties_json=PROPERTIES).line_id == line_id_of("tee", PROPERTIES)


def test_checkout_ids_repeat_when_cart_and_key_are_the_same() -> None:
    checkout_id, payment_id = checkout_ids(Partition("main", 2), "u.ann", "k")

    assert (checkout_id, payment_id) == checkout_ids(Partition("main", 2), "u.ann", "k")
    assert re.fullmatch(r"c2-[0-9a-f]{32}", checkout_id)
    assert re.fullmatch(r"p2-[0-9a-f]{32}", payment_id)
    assert ID_PATTERN.match(payment_id)


def test_checkout_ids_differ_when_cart_or_key_differ() -> None:
    pairs = [("u.ann", "k"), ("u.ben", "k"), ("u.ann", "l"), ("u.an", "nk"), ("u.annk", "")]

    assert len({checkout_ids(Partition("main"), *pair) for pair in pairs}) == len(pairs)


def test_payment_is_found_by_its_order_when_the_id_has_our_form() -> None:
    _, payment_id = checkout_ids(Partition("main"), "u.ann", "k")

    assert payment_id_of_order(f"o{payment_id[1:]}-12") == payment_id


@pytest.mark.parametrize("order_id", ["", "o", "x", "o0-abc", "-", "😀"])
def test_payment_of_an_order_is_some_text_when_the_id_has_another_form(order_id: str) -> None:
    assert payment_id_of_order(order_id).startswith("p")


def test_structs_refuse_to_be_changed_when_they_are_frozen() -> None:
    with pytest.raises(AttributeError):
        EMPTY_SUMMARY.version = 1  # type: ignore[misc]


def _line(**changes: object) -> Line:
    line = Line(
        line_id="tee",
        sku="tee",
        properties_json=None,
        quantity=2,
        held=2,
        hold_expires_at_ms=10,
        first_held_at_ms=1,
        unit_price_minor=1_000,
        revision=1,
        ordinal=1,
        added_at_ms=1,
        updated_at_ms=1,
        current_price_minor=1_200,
        current_revision=2,
        is_active=True,
        policy="deny",
        available_quantity=3,
    )
    return msgspec.structs.replace(line, **changes)
