"""Lines whose SKU changed its options, product or currency since their buyer saw it."""

from __future__ import annotations

import pytest

from cartstore.errors import CheckoutRefused, CurrencyMismatch, LineChanged

from .shop import ANN, BEN, Shop


async def test_line_is_changed_when_the_terms_are_newer_than_what_was_seen(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.sell("mug", 5)
    await shop.add(ANN, "tee")
    await shop.add(ANN, "mug")

    await shop.publish("tee", changes_terms=True)

    tee, mug = (await shop.cart(ANN)).lines
    assert (tee.is_changed, tee.has_other_currency, tee.is_available) == (True, False, False)
    assert (mug.is_changed, mug.is_available) == (False, True)
    assert (tee.held, tee.is_active, tee.available_quantity) == (1, True, 5)


async def test_line_is_not_changed_when_only_another_revision_came(shop: Shop) -> None:
    await shop.sell("tee", 5, changes_terms=True)
    await shop.add(ANN, "tee")

    await shop.publish("tee", price_minor=900)

    line = await shop.line(ANN, "tee")
    assert (line.is_changed, line.is_available) == (False, True)
    assert (await shop.checkout(ANN)).payment.amount_minor == 900


async def test_checkout_is_refused_when_a_line_changed(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    await shop.publish("tee", changes_terms=True, price_minor=2_000)

    with pytest.raises(LineChanged) as caught:
        await shop.checkout(ANN)

    (shortfall,) = caught.value.shortfalls or ()
    assert (shortfall["line_id"], shortfall["code"]) == ("tee", "LINE_CHANGED")
    assert await shop.quantities(ANN) == {"tee": 2}


async def test_checkout_takes_the_other_lines_when_one_changed(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.sell("mug", 5)
    await shop.add(ANN, "tee")
    await shop.add(ANN, "mug")
    await shop.publish("tee", changes_terms=True)
    await shop.publish("mug", price_minor=2_000)

    with pytest.raises(CheckoutRefused) as caught:
        await shop.checkout(ANN)

    assert [shortfall["code"] for shortfall in caught.value.shortfalls or ()] == [
        "LINE_CHANGED",
        "PRICE_CHANGED",
    ]
    await shop.accept(ANN, ["mug"])
    assert (await shop.checkout(ANN, line_ids=("mug",))).payment.amount_minor == 2_000


@pytest.mark.parametrize("is_added", [True, False])
async def test_line_is_settled_when_its_buyer_has_seen_what_it_is_now(shop: Shop, is_added: bool) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    await shop.publish("tee", changes_terms=True)

    if is_added:
        result = await shop.add(ANN, "tee")
        assert result.line is not None
        assert result.line.is_changed is False
    else:
        await shop.accept(ANN)

    assert (await shop.line(ANN, "tee")).is_changed is False
    await shop.checkout(ANN)


@pytest.mark.parametrize("key", [None, "k"])
async def test_line_stays_changed_when_its_quantity_is_set(shop: Shop, key: str | None) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    await shop.publish("tee", changes_terms=True)

    line = (await shop.set(ANN, "tee", 2, key=key)).line

    assert line is not None
    assert (line.quantity, line.held, line.is_changed) == (2, 2, True)
    assert line == await shop.line(ANN, "tee")


async def test_line_cannot_be_accepted_when_its_currency_is_another(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.sell("mug", 5)
    await shop.add(ANN, "mug")
    await shop.add(ANN, "tee")
    await shop.publish("tee", changes_terms=True, currency="EUR")

    with pytest.raises(CurrencyMismatch) as caught:
        await shop.accept(ANN)
    with pytest.raises(LineChanged):
        await shop.checkout(ANN)

    line = await shop.line(ANN, "tee")
    assert (line.is_changed, line.has_other_currency, line.is_available) == (True, True, False)
    assert caught.value.line_id == "tee"
    await shop.remove(ANN, "tee")
    assert (await shop.checkout(ANN)).payment.amount_minor == 1_000


async def test_line_can_be_accepted_when_its_currency_is_the_carts_again(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    await shop.publish("tee", changes_terms=True, currency="EUR")
    await shop.publish("tee", changes_terms=True, currency="USD")
    line = await shop.line(ANN, "tee")
    assert (line.is_changed, line.has_other_currency) == (True, False)

    await shop.accept(ANN)

    assert (await shop.checkout(ANN)).payment.currency == "USD"


async def test_checkout_is_refused_when_the_currency_is_another_and_the_terms_say_nothing(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    await shop.publish("tee", currency="EUR")

    with pytest.raises(CurrencyMismatch):
        await shop.checkout(ANN)

    assert (await shop.line(ANN, "tee")).is_available is False


async def test_line_is_changed_when_it_comes_back_from_an_order(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee")
    await shop.publish("tee", changes_terms=True)
    await shop.cancel(payment_id)

    with pytest.raises(LineChanged):
        await shop.checkout(ANN, key="again")

    await shop.accept(ANN)
    await shop.checkout(ANN, key="again")


async def test_late_money_buys_what_was_sold_when_the_sku_changed_since(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(BEN, "tee")
    await shop.cancel(payment_id)
    await shop.publish("tee", changes_terms=True)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert await shop.quantities(BEN) == {}
