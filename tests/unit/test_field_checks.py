"""Which values of a field make sense."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cartstore_api import field_checks

from cartstore.catalog.rules import image_url_problem

NO_EMAILS = (
    *("ann", "@", "ann@", "ann@gmail", "a b@c.de", "ann@x..de", "ann@x.de\n", "Ann <ann@x.de>"),
    *("a@b.de,c@d.de", "ann@localhost", "ann@[127.0.0.1]", "x" * 65 + "@x.de"),
)


@pytest.mark.parametrize("text", NO_EMAILS)
def test_email_is_refused_when_no_mail_can_have_it(text: str) -> None:
    assert (field_checks.email(text) or "").startswith("is not an e-mail address: ")


def test_email_is_checked_without_the_network() -> None:
    check = "from cartstore_api.field_checks import email; email('a@b.co')"
    program = f"import sys; {check}; print('dns' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "False"


def test_countries_are_those_of_iso_3166() -> None:
    assert all(field_checks.country(code) is None for code in ("DE", "GB", "US", "SS", "XK"))
    assert all(field_checks.country(code) for code in ("XX", "UK", "EU", "AN", "ZZ", "de", "DEU", ""))


@pytest.mark.parametrize(
    "url",
    ["https://a.example/b.jpg", "http://a.example", "HTTPS://a.example/ä b.png", "http://[::1]:80/x?y#z"],
)
def test_image_url_is_taken_when_it_is_http(url: str) -> None:
    assert image_url_problem(url) is None


NO_IMAGES = (
    *("/a.jpg", "a.jpg", "//a.example/b.jpg", "javascript:alert(1)", "java\nscript:alert(1)", ""),
    *(
        "data:image/png;base64,AA",
        "ftp://a/b",
        "http:///b.jpg",
        "https:a.jpg",
        "http://[::1",
        "https://a b/c",
    ),
    *(" https://a.example", "https://a\u0000b", "https://a.example/" + "x" * 2_048),
)


@pytest.mark.parametrize("url", NO_IMAGES)
def test_image_url_is_refused_when_it_is_another(url: str) -> None:
    assert image_url_problem(url) is not None
