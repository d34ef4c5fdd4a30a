"""By what a purchase limit knows a customer."""

from __future__ import annotations

import pytest

from cartstore.customers import contact_identities, names_somebody, normal_email, normal_phone

SECRET = b"a secret of the record"


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("Ann@Shop.TEST", "ann@shop.test"),
        (" ann@shop.test ", "ann@shop.test"),
        ("ann+mugs@shop.test", "ann@shop.test"),
        ("+ann@shop.test", "+ann@shop.test"),
        ("a.n.n@shop.test", "a.n.n@shop.test"),
        ("A.n.n+x@GoogleMail.com", "ann@gmail.com"),
        ("ann@bücher.test", "ann@xn--bcher-kva.test"),
        ("ann@xn--bcher-kva.test", "ann@xn--bcher-kva.test"),
        ("ａｎｎ@shop.test", "ann@shop.test"),
        ("no address", "no address"),
    ],
)
def test_addresses_of_one_mailbox_are_one(address: str, normal: str) -> None:
    assert normal_email(address) == normal


@pytest.mark.parametrize(
    ("number", "normal"),
    [
        ("+44 20 7946-0001", "442079460001"),
        ("0044 (0)20 7946 0001", "442079460001"),
        ("020 7946 0001", "02079460001"),
        ("٠٢٠ ٧٩٤٦ ٠٠٠١", "02079460001"),
        ("none", ""),
    ],
)
def test_spellings_of_one_number_are_one(number: str, normal: str) -> None:
    assert normal_phone(number) == normal


def test_identities_tell_nothing_of_the_address_without_the_secret() -> None:
    contact = {"email": "ann@shop.test", "phone": "+44 20 7946 0001"}

    mail, phone = contact_identities(SECRET, contact)

    assert mail.startswith("e.")
    assert phone.startswith("t.")
    assert len(mail) == len(phone) == 34
    assert contact_identities(b"another", contact) != (mail, phone)
    assert contact_identities(SECRET, {"email": "ANN+1@shop.test"}) == (mail,)
    # One text in both fields is two customers: an address is no number.
    both = contact_identities(SECRET, {"email": "442079460001", "phone": "442079460001"})
    assert both[0][2:] != both[1][2:]


@pytest.mark.parametrize(
    "contact", [None, {}, {"email": ""}, {"email": None}, {"phone": "1"}, "a text", {"phone": 7}]
)
def test_contact_names_nobody_without_address_and_number(contact: object) -> None:
    assert contact_identities(SECRET, contact) == ()
    assert not names_somebody(contact)
