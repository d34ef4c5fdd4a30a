"""Goal: the checker finds each kind of violation, and nothing in a history that is as it should be.

Method: a small true history is written by hand; each test plants one wrong thing in it, in the calls or in
the books, and wants exactly that to be found.
"""

from __future__ import annotations

import msgspec
import pytest

from .books import Books, PaymentBooks, SkuBooks
from .bounds import Absence, Terms, Upset, Windows
from .checker import Damage, check
from .history import Call, History, Line, Shortfall

TERMS = Terms(guest_seconds=4, member_seconds=10, window_seconds=60)
DELIVERED = {"s": 5}


def call(buyer: str, verb: str, key: str, began: float, ended: float, **fields: object) -> Call:
    given = {"verdict": "ok", "status": 200, **fields}
    return Call(buyer=buyer, verb=verb, key=key, began=began, ended=ended, **given)  # type: ignore[arg-type]


def add(buyer: str, key: str, at: float, quantity: int, total: int, version: int, **fields: object) -> Call:
    line = Line("s", total, total, at + 10)
    given = {"sku": "s", "quantity": quantity, "lines": (line,), "version": version, **fields}
    return call(buyer, "add", key, at, at + 0.1, **given)


def sold_out(buyer: str, key: str, at: float, available: int, requested: int) -> Call:
    return call(
        buyer,
        "add",
        key,
        at,
        at + 0.1,
        verdict="failed",
        status=409,
        code="INSUFFICIENT_STOCK",
        sku="s",
        quantity=requested,
        shortfalls=(Shortfall("s", available, requested),),
    )


def unknown(of: Call) -> Call:
    """The same call, of which nobody knows what came."""
    return msgspec.structs.replace(of, verdict="unknown", status=504, lines=(), version=None, payment_id="")


@pytest.fixture
def history() -> History:
    """Ann buys two of five and pays; Ben cannot have four of the other three, takes three and drops them;
    Cleo checks one out and cancels; Dan is told nothing of his delivery before it is repeated."""
    return History(
        [
            add("ann", "a1", 100.0, 2, 2, 1),
            sold_out("ben", "b1", 101.0, 3, 4),
            add("ben", "b2", 102.0, 3, 3, 2),
            call("ann", "checkout", "a2", 103.0, 103.1, **checkout("p1", 2, 163.0)),
            call("ann", "settle", "a3", 104.0, 104.1, payment_id="p1", told="paid"),
            call("ben", "remove", "b3", 105.0, 105.1, sku="s", version=3),
            call("ann", "read", "a4", 106.0, 106.1, version=4),
            add("cleo", "c1", 107.0, 1, 1, 5),
            call("cleo", "checkout", "c2", 108.0, 108.1, **checkout("p2", 1, 168.0)),
            call("cleo", "cancel", "c3", 109.0, 109.1, payment_id="p2", told="released"),
            call("cleo", "read", "c4", 110.0, 110.1, version=7, lines=(Line("s", 1),)),
            call("ben", "stock", "b4", 111.0, 111.1, sku="s", stock=(3, 0, 2)),
            call("dan", "restock", "d1", 112.0, 112.1, verdict="unknown", status=0, **delivery("r1", 2)),
            call("dan", "restock", "d1", 112.5, 112.6, **delivery("r1", 2)),
        ]
    )


def checkout(payment_id: str, quantity: int, expires_at: float) -> dict[str, object]:
    lines = (Line("s", quantity),)
    return {"payment_id": payment_id, "told": f"{payment_id}.1", "lines": lines, "expires_at": expires_at}


def delivery(reference: str, units: int) -> dict[str, object]:
    return {"sku": "s", "quantity": units, "reference": reference}


@pytest.fixture
def books() -> Books:
    return Books(
        skus={
            "s": SkuBooks(
                on_hand=5,
                held=0,
                sold=2,
                held_by_holders=0,
                recorded_on_hand=5,
                recorded_sold=2,
                ledger_sum=5,
                ledger_sold=2,
                ledger_delivered=7,
            )
        },
        payments={
            "p1": PaymentBooks(
                payment_id="p1",
                key="a2",
                status="paid",
                units={"s": 2},
                orders={"p1.1": "paid"},
                begun=1,
                settled=1,
                sales=1,
                expires_at=163.0,
            ),
            "p2": PaymentBooks(
                payment_id="p2",
                key="c2",
                status="cancelled",
                units={"s": 1},
                orders={"p2.1": "released"},
                begun=1,
                released=1,
                expires_at=168.0,
            ),
        },
        deliveries={"r1": 2},
    )


def found(history: History, books: Books, *absences: Absence) -> set[str]:
    return {its.kind for its in check(history, books, delivered=DELIVERED, terms=TERMS, absences=absences)}


def replace(history: History, key: str, **fields: object) -> None:
    """In the last call under a key."""
    place = max(place for place, its in enumerate(history) if its.key == key)
    history[place] = msgspec.structs.replace(history[place], **fields)


def test_nothing_is_found_when_the_history_is_true(history: History, books: Books) -> None:
    assert check(history, books, delivered=DELIVERED, terms=TERMS) == []


# --- oversold --------------------------------------------------------------------------------------------


def test_oversold_is_found_when_buyers_hold_more_than_there_is(history: History, books: Books) -> None:
    """Ann holds two and Ben three, and Eve is given one as well."""
    history.append(add("eve", "e1", 102.5, 1, 1, 9))

    assert found(history, books) == {"oversold"}


def test_oversold_is_not_found_when_a_hold_had_lapsed(history: History, books: Books) -> None:
    """Ben takes three at 102 and never comes back; when their time is over Eve takes them."""
    history[:] = [its for its in history if its.key != "b3" and its.buyer != "cleo"]
    del books.payments["p2"]
    history.append(add("eve", "e1", 112.2, 3, 3, 9))

    assert found(history, books) == set()


def test_oversold_is_found_when_a_paid_unit_is_sold_again(history: History, books: Books) -> None:
    """Eve gets four of the three that Ann left."""
    history.append(add("eve", "e1", 106.2, 4, 4, 9))

    assert found(history, books) == {"oversold"}


def test_oversold_is_found_when_a_pending_order_does_not_keep_its_units(
    history: History, books: Books
) -> None:
    """While Cleo is paying for one, and Ann has bought two, Eve gets three of two."""
    history.append(add("eve", "e1", 108.2, 3, 3, 9))

    assert found(history, books) == {"oversold"}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"on_hand": 6}, "oversold"),
        ({"on_hand": 4}, "lost"),
        ({"held": 6, "held_by_holders": 6}, "oversold"),
        ({"held": 1, "held_by_holders": 2}, "oversold"),
        ({"held": 1}, "lost"),
        ({"recorded_sold": 1}, "lost"),
        ({"ledger_sum": 4}, "lost"),
        ({"ledger_sold": 1}, "lost"),
        ({"ledger_delivered": 9}, "duplicated"),
    ],
)
def test_counters_that_do_not_add_up_are_found(
    history: History, books: Books, fields: dict[str, int], kind: str
) -> None:
    for name, value in fields.items():
        setattr(books.skus["s"], name, value)

    assert kind in found(history, books)


def test_oversold_is_found_when_paid_orders_have_more_than_was_sold(history: History, books: Books) -> None:
    books.payments["p1"].units = {"s": 3}
    replace(history, "a2", lines=(Line("s", 3),))

    assert "oversold" in found(history, books)


@pytest.mark.parametrize(
    ("stock", "kind"), [((4, 0, 2), "oversold"), ((2, 0, 2), "lost"), ((3, 4, 2), "oversold")]
)
def test_reading_that_does_not_add_up_is_found(
    history: History, books: Books, stock: tuple[int, int, int], kind: str
) -> None:
    replace(history, "b4", stock=stock)

    assert found(history, books) == {kind}


# --- sold out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("available", [0, 2])
def test_false_sold_out_is_found_when_more_was_free(history: History, books: Books, available: int) -> None:
    """Ann holds two of five, and nobody else anything."""
    replace(history, "b1", shortfalls=(Shortfall("s", available, 4),))

    assert found(history, books) == {"false sold out"}


def test_false_sold_out_is_found_when_it_contradicts_itself(history: History, books: Books) -> None:
    replace(history, "b1", shortfalls=(Shortfall("s", 3, 3),))

    assert found(history, books) == {"false sold out"}


def test_false_sold_out_is_found_when_the_hold_had_lapsed(history: History, books: Books) -> None:
    """Cleo's line came back unheld at 109; what she may hold is over at 119.1."""
    history.append(sold_out("eve", "e1", 119.3, 4, 5))

    assert found(history, books) == {"false sold out"}


def test_false_sold_out_is_found_when_the_guests_hold_had_lapsed(history: History, books: Books) -> None:
    for its in history:
        its.is_guest = its.buyer == "cleo"
    history.append(sold_out("eve", "e1", 118.9, 4, 5))

    assert found(history, books) == {"false sold out"}


def test_sold_out_is_justified_when_a_hold_may_still_be_there(history: History, books: Books) -> None:
    history.append(sold_out("eve", "e1", 118.9, 4, 5))

    assert found(history, books) == set()


def test_sold_out_is_justified_when_an_unknown_call_may_hold(history: History, books: Books) -> None:
    """Eve was told nothing of her three; Ann has bought two."""
    history.append(unknown(add("eve", "e1", 106.2, 3, 3, 9)))
    history.append(sold_out("fay", "f1", 106.5, 0, 1))

    assert found(history, books) == set()


def test_sold_out_is_justified_when_it_ends_in_the_middle_of_the_call(history: History, books: Books) -> None:
    """Ben's three are free from 105.1 on; a call that began before may have seen them held."""
    its = sold_out("eve", "e1", 105.05, 0, 1)
    its.ended = 109.0
    history.append(its)

    assert found(history, books) == set()


def test_false_sold_out_is_found_when_a_delivery_had_come(history: History, books: Books) -> None:
    history.append(sold_out("eve", "e1", 120.0, 4, 6))

    assert found(history, books) == {"false sold out"}


# --- lost and duplicated ------------------------------------------------------------------------------------


def test_loss_is_found_when_an_acknowledged_order_is_not_archived(history: History, books: Books) -> None:
    del books.payments["p2"]

    assert found(history, books) == {"lost"}


def test_loss_is_no_violation_when_the_record_was_taken_back(history: History, books: Books) -> None:
    del books.payments["p2"]
    upset = Upset(112.2, 112.4, backup_at=107.5)

    assert found(history, books, upset) == set()


def test_loss_is_found_when_the_order_was_told_before_the_backup(history: History, books: Books) -> None:
    del books.payments["p2"]
    upset = Upset(112.2, 112.4, backup_at=111.0)

    assert found(history, books, upset) == {"lost"}


@pytest.mark.parametrize(
    ("payment_id", "fields", "kind"),
    [
        ("p1", {"units": {"s": 1}}, "lost"),
        ("p1", {"begun": 2}, "duplicated"),
        ("p1", {"begun": 0}, "duplicated"),
        ("p1", {"settled": 2}, "duplicated"),
        ("p1", {"sales": 2}, "duplicated"),
        ("p1", {"sales": 0}, "lost"),
        ("p1", {"orders": {"p1.1": "pending"}}, "lost"),
        ("p1", {"orders": {"other": "paid"}}, "lost"),
        ("p1", {"status": "refund_due", "sales": 0, "orders": {"p1.1": "refund_due"}}, "lost"),
        ("p2", {"released": 2}, "duplicated"),
        ("p2", {"status": "pending", "orders": {"p2.1": "pending"}}, "lost"),
        ("p2", {"status": "expired", "expired_at": 120.0}, "early release"),
        ("p2", {"status": "paid", "settled": 1, "sales": 1, "orders": {"p2.1": "paid"}}, "duplicated"),
        ("p2", {"key": "nobody's"}, "duplicated"),
        ("p2", {"key": "a2"}, "duplicated"),
    ],
)
def test_payment_that_is_not_as_told_is_found(
    history: History, books: Books, payment_id: str, fields: dict[str, object], kind: str
) -> None:
    for name, value in fields.items():
        setattr(books.payments[payment_id], name, value)

    assert kind in found(history, books)


def test_end_that_nobody_asked_for_is_found(history: History, books: Books) -> None:
    """Nobody cancelled, and it is cancelled."""
    history[:] = [its for its in history if its.key not in ("c3", "c4")]

    assert found(history, books) == {"lost"}


def test_duplicate_is_found_when_a_repeated_checkout_makes_another(history: History, books: Books) -> None:
    history.append(call("ann", "checkout", "a2", 103.5, 103.6, **checkout("p3", 2, 163.0)))

    assert found(history, books) == {"duplicated"}


def test_duplicate_is_found_when_a_refused_checkout_is_archived(history: History, books: Books) -> None:
    history[:] = [its for its in history if its.key not in ("c3", "c4")]
    replace(history, "c2", verdict="failed", status=503, lines=(), payment_id="")

    assert "duplicated" in found(history, books)


def test_loss_is_found_when_a_delivery_is_not_in_the_ledger(history: History, books: Books) -> None:
    books.deliveries.clear()

    assert "lost" in found(history, books)


def test_duplicate_is_found_when_a_refused_delivery_came(history: History, books: Books) -> None:
    del history[-2]
    replace(history, "d1", verdict="failed", status=503)

    assert "duplicated" in found(history, books)


def test_duplicate_is_found_when_a_repeated_add_counts_twice(history: History, books: Books) -> None:
    history.insert(6, unknown(add("ben", "b9", 105.2, 1, 1, 0)))
    history.insert(7, add("ben", "b9", 105.6, 1, 2, 8))

    assert found(history, books) == {"duplicated"}


def test_loss_is_found_when_an_acknowledged_add_is_gone(history: History, books: Books) -> None:
    history.append(call("cleo", "read", "c9", 110.5, 110.6, version=7))

    assert found(history, books) == {"lost"}


def test_loss_is_found_when_an_engine_that_lost_nothing_forgets_a_line(
    history: History, books: Books
) -> None:
    gone = {"verdict": "failed", "status": 404, "code": "ITEM_NOT_FOUND", "sku": "s"}
    history.append(call("cleo", "remove", "c9", 110.5, 110.6, **gone))

    assert found(history, books) == {"lost"}


def test_gone_line_is_no_violation_when_the_engine_lost_its_memory(history: History, books: Books) -> None:
    history.append(call("cleo", "read", "c9", 110.9, 111.0, version=1_000_000))

    assert found(history, books, Upset(110.3, 110.8)) == set()


def test_change_during_an_upset_is_no_violation_when_it_is_forgotten(history: History, books: Books) -> None:
    """Cleo's second unit was added before the engine was really emptied, although the fault had begun."""
    history.append(add("cleo", "c8", 110.4, 1, 2, 8))
    history.append(add("cleo", "c9", 110.6, 1, 3, 9))
    history.append(call("cleo", "read", "c10", 110.9, 111.0, version=1_000_000))

    assert found(history, books, Upset(110.3, 110.8)) == set()


def test_sold_out_is_justified_when_a_cart_may_be_back_as_it_was(history: History, books: Books) -> None:
    """Ben dropped his three, and the engine may have forgotten that."""
    history.append(sold_out("eve", "e1", 106.6, 0, 1))

    assert found(history, books, Upset(106.2, 106.5)) == set()


@pytest.mark.parametrize(
    ("absences", "over_at"),
    [
        pytest.param([], 168.0, id="never-away"),
        pytest.param([Absence(130.0, 131.0)], 168.0 + 23.0, id="since-the-last-event"),
        pytest.param([Absence(150.0, 151.0)], 168.0 + 41.0, id="since-the-last-snapshot"),
        pytest.param([Absence(130.0, 131.0), Absence(131.0, 132.0)], 168.0 + 47.0, id="twice"),
        pytest.param([Absence(106.0, 107.9)], 168.0, id="before-it"),
        pytest.param([Absence(167.0, 169.5), Absence(200.0, 201.0)], 168.0 + 83.5, id="before-it-was-over"),
        pytest.param([Absence(210.0, 211.0)], 168.0, id="after-it-was-over"),
        pytest.param([Absence(108.05, 131.0)], 168.0 + 23.0, id="as-it-began"),
        pytest.param([Upset(130.0, 131.0)], 168.0 + 23.0, id="without-its-memory"),
        pytest.param(
            [Upset(150.0, 151.0), Absence(160.0, 161.0)], 168.0 + 82.0, id="without-it-then-with-it"
        ),
    ],
)
def test_sold_out_is_justified_when_a_window_was_extended_for_the_engines_absence(
    history: History, books: Books, absences: list[Absence], over_at: float
) -> None:
    """Cleo walked away at 108 from an order of one unit, whose window would have been over at 168; the engine
    has shown no sign of life that is known of since."""
    del history[-5:-3]
    books.payments["p2"].status, books.payments["p2"].expired_at = "expired", over_at
    history.append(sold_out("eve", "e1", over_at - 0.1, 4, 5))
    assert found(history, books, *absences) == set()

    history.append(sold_out("eve", "e2", over_at + 0.1, 4, 5))
    assert found(history, books, *absences) == {"false sold out"}


@pytest.mark.parametrize(
    ("absences", "end"),
    [
        pytest.param([Absence(141.0, 142.0)], 160.0 + 2.1, id="last-event"),
        pytest.param([Absence(140.05, 142.0)], 160.0 + 41.95, id="event-under-way"),
        pytest.param([Upset(141.0, 142.0), Absence(150.0, 151.0)], 160.0 + 82.0, id="event-forgotten"),
    ],
)
def test_window_gets_back_the_time_since_the_last_event_when_the_engine_has_it(
    absences: list[Absence], end: float
) -> None:
    """Ann's window begins at 100; Ben checks out at 140."""
    its = History(
        [
            call("ann", "checkout", "a1", 100.0, 100.1, **checkout("p1", 1, 160.0)),
            call("ben", "checkout", "b1", 139.9, 140.1, **checkout("p2", 1, 200.0)),
        ]
    )

    assert Windows(its.operations(), absences).end(100.0, 160.0) == pytest.approx(end)


def test_late_request_is_no_violation_when_its_owner_left(history: History, books: Books) -> None:
    """Unknown, then refused: the first request may still arrive. Nothing is claimed of that cart any more."""
    history.append(unknown(add("cleo", "c8", 110.4, 1, 2, 0)))
    history.append(sold_out("cleo", "c8", 110.6, 0, 1))
    history.append(call("cleo", "read", "c9", 110.8, 110.9, version=7, lines=(Line("s", 2),)))
    history[-2].shortfalls = ()

    assert found(history, books) == set()


# --- versions, defects, drift -------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "version"), [("a4", 0), ("b3", 2), ("b3", 1)])
def test_version_that_goes_back_is_found(history: History, books: Books, key: str, version: int) -> None:
    replace(history, key, version=version, lines=(Line("s", 0),) if version == 0 else ())

    assert found(history, books) == {"version"}


def test_older_version_is_no_violation_when_the_engine_lost_a_change(history: History, books: Books) -> None:
    history.append(call("cleo", "read", "c9", 110.9, 111.0, version=4))

    assert found(history, books, Upset(110.3, 110.8)) == set()


def test_version_that_goes_back_is_found_when_the_engine_lost_its_memory(
    history: History, books: Books
) -> None:
    """A change may be lost, but no later one gets its version."""
    history.append(add("cleo", "c9", 110.9, 1, 2, 6))

    assert found(history, books, Upset(110.3, 110.8)) == {"version"}


def test_version_of_two_carts_is_found(history: History, books: Books) -> None:
    replace(history, "c1", version=3)

    assert found(history, books) == {"version"}


@pytest.mark.parametrize(
    ("status", "code"), [(500, "INTERNAL"), (422, "LIMIT_EXCEEDED"), (401, "UNAUTHENTICATED")]
)
def test_answer_that_nobody_earned_is_found(history: History, books: Books, status: int, code: str) -> None:
    history.append(call("eve", "read", "e1", 113.0, 113.1, verdict="failed", status=status, code=code))

    assert found(history, books) == {"defect"}


def test_events_put_aside_are_found_when_nothing_had_forgotten_anything(
    history: History, books: Books
) -> None:
    books.put_aside = 1

    assert found(history, books) == {"lost"}


def test_drift_and_rejected_events_are_found(history: History, books: Books) -> None:
    books.drift.append("a counter")
    books.rejected = 1

    assert found(history, books) == {"drift", "lost"}


# --- destroyed events ------------------------------------------------------------------------------------


def lose_checkout_of_ann(books: Books) -> None:
    """Her order is as if it had never been; its event is named."""
    del books.payments["p1"]
    books.skus["s"] = SkuBooks(
        on_hand=7,
        held=0,
        sold=0,
        held_by_holders=0,
        recorded_on_hand=7,
        recorded_sold=0,
        ledger_sum=7,
        ledger_sold=0,
        ledger_delivered=7,
    )
    books.unreadable = {"1-4"}


def found_with(damage: Damage, history: History, books: Books) -> set[str]:
    upset = Upset(150.0, 160.0)
    return {
        its.kind
        for its in check(history, books, delivered=DELIVERED, terms=TERMS, absences=[upset], damage=damage)
    }


def test_order_of_a_destroyed_event_may_be_lost_when_the_event_is_named(
    history: History, books: Books
) -> None:
    lose_checkout_of_ann(books)

    assert found_with(Damage({"1-4"}, {"p1"}), history, books) == set()
    # Of another payment's event it would be lost.
    assert found_with(Damage({"1-4"}, {"p2"}), history, books) == {"lost"}


def test_destroyed_event_is_found_when_it_is_not_named(history: History, books: Books) -> None:
    damage = Damage({"1-4"}, {"p1"})

    assert found_with(damage, history, books) == {"lost"}
    books.archived = {"1-4"}
    assert found_with(damage, history, books) == set()


def test_unreadable_event_is_found_when_nobody_touched_it(history: History, books: Books) -> None:
    books.unreadable = {"1-4"}

    assert found(history, books) == {"lost"}
