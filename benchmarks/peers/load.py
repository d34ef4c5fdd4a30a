"""`python -m benchmarks.peers.load URL TEMPLATE`: the workload at any cart that speaks HTTP.

A template is one request as it goes over the wire, with these words filled in from the workload:

    {host}       of the URL
    {user}       the buyer: one of --carts names, always the same ones
    {sku}        what the buyer adds, by Zipf's law
    {quantity}   1
    {nonce}      a number that no other request has

`Content-Length` is put in when there is a body; line ends may be plain. The file `fields.csv` of --fields, if
given, has one line per buyer, a header line with names, and fills in words of those names: tokens, cart ids.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import wrk
from benchmarks.workload import CARTS, LINES, SEED, SKUS, adds, sku_name, user_name


def filled(template: str, words: Mapping[str, str]) -> bytes:
    """A request, with the length of its body. Unknown words stay as they are."""
    for name, value in words.items():
        template = template.replace("{" + name + "}", value)
    head, blank, body = template.replace("\r\n", "\n").partition("\n\n")
    text = body.rstrip("\n").encode()
    lines = [line for line in head.strip().split("\n") if not line.lower().startswith("content-length:")]
    if blank and text:
        lines.append(f"Content-Length: {len(text)}")
    return "\r\n".join([*lines, "", ""]).encode() + text


def requests_of(
    template: str, url: str, *, count: int, carts: int, skus: int, buyers: Sequence[Mapping[str, str]] = ()
) -> list[bytes]:
    """The workload's adds through a template."""
    host = urlsplit(url).netloc
    return [
        filled(
            template,
            {
                "host": host,
                "user": user_name(op.cart),
                "sku": sku_name(op.sku),
                "quantity": str(op.quantity),
                "nonce": wrk.MARK,
                **(buyers[op.cart % len(buyers)] if buyers else {}),
            },
        )
        for op in adds(count, carts=carts, skus=skus, lines=min(LINES, skus), seed=SEED)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.load", description="Load another cart.")
    parser.add_argument("url", help="scheme, host and port")
    parser.add_argument("template", type=Path)
    parser.add_argument("--fields", type=Path, metavar="CSV", help="words per buyer")
    parser.add_argument("--carts", type=int, default=CARTS)
    parser.add_argument("--skus", type=int, default=SKUS)
    parser.add_argument("--count", type=int, default=20_000, help="different requests; default: %(default)s")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="per second, open loop; default: closed loop")
    options = parser.parse_args(arguments)
    buyers = list(csv.DictReader(options.fields.open())) if options.fields else []
    found = requests_of(
        options.template.read_text(),
        options.url,
        count=options.count,
        carts=options.carts,
        skus=options.skus,
        buyers=buyers,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = wrk.write_requests(Path(folder) / "requests", found)
        for _ in range(options.repetitions):
            sample = wrk.run(
                options.url,
                file,
                seconds=options.seconds,
                connections=options.connections,
                rate=options.rate,
            )
            print(
                f"{sample.rate:,.0f}/s  p50 {sample.p50:.2f} ms  p99 {sample.p99:.2f} ms  "
                f"p99.9 {sample.p999:.2f} ms  {sample.count} requests, {sample.failed} refused"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
