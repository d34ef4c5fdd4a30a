"""Owns the command line `cartstore`. Thin: parses, calls, and turns every expected error into one line.

Exit status: 0 done, 1 failed, 2 refused (wrong usage, settings or environment; nothing was started).
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import errno
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
from rich.table import Table

from cartstore import limits
from cartstore.catalog.sales import price_minor_at
from cartstore.datadir import DataDir
from cartstore.embedded import embedded_parts, resolve
from cartstore.errors import CartStoreError, ConfigurationError, ProductNotFound, StoreRecovering
from cartstore.settings import Settings, load_settings

SCOPES = ("admin", "catalog:write", "stock:write", "ops:read")
"""Of access tokens: what the API knows, `admin` being all of it."""

TOKEN_TTL_SECONDS = 24 * 3600

PROGRESS_SECONDS = 1.0
"""How often a long step tells how far it is."""

EXIT_FAILED = 1
EXIT_REFUSED = 2

Command = Callable[[argparse.Namespace, Settings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status. argparse itself exits on wrong usage, with status 2."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        settings = load_settings()
        if options.needs_store:
            _check_data_dir(options.data_dir, settings)
        return command(options, settings)
    except CartStoreError as error:
        print(f"cartstore: {error.for_operators}", file=sys.stderr)
        return EXIT_REFUSED if isinstance(error, ConfigurationError) else EXIT_FAILED
    except OSError as error:
        # Of the machine and not of us: a full disk, a file that is another user's.
        print(f"cartstore: {error.filename or 'failed'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _check_data_dir(data_dir: Path, settings: Settings) -> None:
    """Refuse a data dir that is none: a mistyped one would otherwise become a new store, which is empty and
    well. Where the settings name engine and database none is needed."""
    if not (settings.redis_url and settings.database_url):
        DataDir(data_dir, create=False)


def _up(options: argparse.Namespace, settings: Settings) -> int:
    from cartstore.supervisor import Options, run_up

    up = Options(
        data_dir=options.data_dir,
        host=options.host,
        port=options.port,
        processes=options.processes,
        catalogs=options.catalog,
    )
    run_up(settings, up)
    return 0


def _token(options: argparse.Namespace, settings: Settings) -> int:
    if not 0 < len(options.user) <= limits.ID_LENGTH_MAX or not options.user.isprintable():
        raise ConfigurationError(f"--user takes 1 to {limits.ID_LENGTH_MAX} characters that can be printed.")
    unknown = [scope for scope in options.scope.split() if scope not in SCOPES]
    if unknown:
        raise ConfigurationError(f"--scope has no {unknown[0]!r}; there are {', '.join(SCOPES)}.")
    is_new = not settings.jwt_secret and not options.data_dir.exists()
    secret = settings.jwt_secret or DataDir(options.data_dir).secrets().jwt_secret
    if is_new:
        # A mistyped --data-dir would otherwise show only as a token that nobody takes.
        print(
            f"cartstore: {options.data_dir} is new; the token is for the store made there.", file=sys.stderr
        )
    now = int(time.time())
    claims = {"sub": options.user, "iat": now, "exp": now + options.ttl}
    if options.scope:
        claims["scope"] = options.scope
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    print(jwt.encode(claims, secret, algorithm="HS256"))
    return 0


def _catalog_import(options: argparse.Namespace, settings: Settings) -> int:
    return asyncio.run(_import_files(options.files, options.columns, options.data_dir, settings))


def _columns(text: str) -> dict[str, str]:
    """`Their name=SKU,"A name, with a comma=Name"` as their names with ours."""
    pairs: dict[str, str] = {}
    for part in next(csv.reader([text]), []):
        theirs, separator, known = (piece.strip() for piece in part.rpartition("="))
        if not separator or not theirs or not known:
            raise argparse.ArgumentTypeError(f"{part!r} is not their name, an equals sign and ours")
        pairs[theirs] = known
    return pairs


async def _import_files(
    files: Sequence[Path], columns: Mapping[str, str], data_dir: Path, settings: Settings
) -> int:
    from cartstore.terminal import complaints, import_with_report
    from cartstore.wiring import open_store

    if not any(file.exists() for file in files):
        # A mistyped name makes no store.
        for file in files:
            complaints().print(f"cartstore: {file} cannot be read: {os.strerror(errno.ENOENT)}.")
        return EXIT_FAILED
    failed = False
    async with open_store(settings, data_dir=data_dir) as store:
        for file in files:
            try:
                report = await import_with_report(store, file, columns=columns)
                failed = failed or bool(report.rejected)
            # One file that is no catalog keeps none of the others out.
            except (CartStoreError, OSError) as error:
                text = str(error)
                complaints().print(f"cartstore: {text if text.startswith(str(file)) else f'{file}: {text}'}")
                failed = True
    return EXIT_FAILED if failed else 0


def _catalog_list(options: argparse.Namespace, settings: Settings) -> int:
    return asyncio.run(_list_products(options.data_dir, settings))


async def _list_products(data_dir: Path, settings: Settings) -> int:
    from cartstore.catalog.money import to_text
    from cartstore.terminal import output
    from cartstore.wiring import open_store

    table = Table("Product", "Seller", "SKU", "Options", "Price", "Available")
    async with open_store(settings, data_dir=data_dir) as store:
        cursor: str | None = None
        while True:
            products, cursor = await store.list_products(limit=limits.PAGE_SIZE_MAX, cursor=cursor)
            levels = await store.stock_of(products)
            now_ms = time.time_ns() // 1_000_000
            for product in products:
                for variant in product.variants:
                    level = levels.get(variant.sku)
                    available = level.available if level is not None else 0
                    table.add_row(
                        product.title,
                        product.seller or "",
                        variant.sku,
                        " ".join(variant.options.values()),
                        f"{to_text(price_minor_at(variant, now_ms), product.currency)} {product.currency}",
                        "any" if available is None else str(available),
                    )
            if cursor is None:
                break
    output().print(table)
    return 0


def _migrate(options: argparse.Namespace, settings: Settings) -> int:
    from cartstore.archive import migrate
    from cartstore.archive.schema import HEAD, newest_revision

    async def run() -> str | None:
        async with embedded_parts(settings, options.data_dir) as complete:
            return await migrate(complete.database_url, revision=options.to or HEAD)

    found, ours = asyncio.run(run()), newest_revision()
    if options.to:
        print(f"The database has the tables of revision {options.to}.")
    elif found is not None and found > ours:
        print(
            f"The database has newer tables, of a later cartstore: their revision is {found}, this one's is "
            f"{ours}. Nothing was changed; this cartstore can use them."
        )
    else:
        print(f"The database has the tables of this cartstore (revision {ours}).")
    return 0


def _recover(options: argparse.Namespace, settings: Settings) -> int:
    return asyncio.run(_recover_store(options.data_dir, settings, rebuilds=options.rebuild))


async def _recover_store(data_dir: Path, settings: Settings, *, rebuilds: bool) -> int:
    from cartstore.recovery.rebuild import progress_text
    from cartstore.terminal import complaints, output
    from cartstore.wiring import open_store

    def show(what: str, done: int, total: int | None) -> None:
        if is_worth_telling(what, done == total):
            complaints().print(progress_text(what, done, total))

    is_worth_telling = _throttle(PROGRESS_SECONDS)
    # Opening a store recovers it: this command is for watching it, and for doing it without an API.
    async with open_store(settings, data_dir=data_dir, on_recovery=show) as store:
        if rebuilds:
            with suppress(StoreRecovering):
                await store.recover(show, rebuilds=True)
        while True:
            found = await store.readiness()
            gate = found["checks"]["gate"]
            if gate["ok"] or not gate["detail"].startswith("rebuilding"):
                break
            # Another process is at it; how far is shown from here until it is done, or dead: then this one
            # takes over.
            complaints().print(gate["detail"])
            await asyncio.sleep(PROGRESS_SECONDS)
            with suppress(StoreRecovering):
                await store.recover(show)
    for name, check in found["checks"].items():
        output().print(f"{name}: {check['detail']}")
    return 0 if found["checks"]["gate"]["ok"] else EXIT_FAILED


def _throttle(seconds: float) -> Callable[[str, bool], bool]:
    """Whether to tell of something now: when it is new, when it is done, and every so many seconds."""
    last: tuple[str, float] = ("", 0.0)

    def is_worth_telling(what: str, is_done: bool) -> bool:
        nonlocal last
        now = time.monotonic()
        if what == last[0] and not is_done and now - last[1] < seconds:
            return False
        last = (what, now)
        return True

    return is_worth_telling


def _reconcile(options: argparse.Namespace, settings: Settings) -> int:
    return asyncio.run(_reconcile_store(options.data_dir, settings, repair=not options.dry_run))


async def _reconcile_store(data_dir: Path, settings: Settings, *, repair: bool) -> int:
    from cartstore.recovery.reconcile import Reconciler
    from cartstore.recovery.report import table
    from cartstore.terminal import output
    from cartstore.wiring import open_store

    async with open_store(settings, data_dir=data_dir) as store:
        report = await Reconciler(store).run(repair=repair)
    output().print(table(report), soft_wrap=True)
    return EXIT_FAILED if report.drift else 0


def _unfreeze(options: argparse.Namespace, settings: Settings) -> int:
    return asyncio.run(_unfreeze_skus(options.sku, options.data_dir, settings))


async def _unfreeze_skus(skus: Sequence[str], data_dir: Path, settings: Settings) -> int:
    from cartstore.terminal import complaints, output
    from cartstore.wiring import open_store

    failed = False
    async with open_store(settings, data_dir=data_dir) as store:
        for sku in skus:
            try:
                why = await store.archive.quarantine.reason(sku)
                was_frozen = await store.unfreeze_sku(sku)
                if not was_frozen:
                    await store.read_stock(sku)
            # One that this store does not have keeps none of the others frozen.
            except ProductNotFound as error:
                complaints().print(f"cartstore: {sku}: {error.message}")
                failed = True
                continue
            told = f"sold again; it was frozen: {why}" if was_frozen else "not frozen"
            output().print(f"{sku}: {told}")
        left = await store.archive.quarantine.counts()
    output().print(f"{left.rejected_events} events rejected, {left.frozen_skus} SKUs frozen")
    return EXIT_FAILED if failed else 0


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    return asyncio.run(_examine(options.data_dir, settings))


async def _examine(data_dir: Path, settings: Settings) -> int:
    from cartstore.doctor import examine
    from cartstore.embedded.salvage import reports_of
    from cartstore.terminal import output

    found = await examine(settings, data_dir)
    told = {True: "ok", False: "NOT OK", None: "unknown"}
    for name, finding in found.items():
        output().print(f"{name}: {told[finding.is_ok]}, {finding.detail}")
    for report in reports_of(data_dir / "engine"):
        output().print(f"log: {report.at}, {report.summary}", soft_wrap=True)
    return 0 if all(finding.is_ok for finding in found.values()) else EXIT_FAILED


def _api(options: argparse.Namespace, settings: Settings) -> int:
    from cartstore.listening import listen

    # The data dir first: that nothing runs there is the more telling reason.
    complete = resolve(options.data_dir, settings)
    listener = listen(options.host, options.port)
    listener.set_inheritable(True)
    return _become("cartstore_api", ["--fd", str(listener.fileno())], complete)


def _worker(options: argparse.Namespace, settings: Settings) -> int:
    return _become("cartstore_workers", [], resolve(options.data_dir, settings))


def _become(module: str, arguments: list[str], settings: Settings) -> int:
    """Turn this process into the program, so that signals and exit status are the program's own."""
    from cartstore.embedded.parts import child_environment

    environment = child_environment(settings)
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)  # noqa: S606


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cartstore", description="A cart store that never oversells.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Command, text: str, group: Any = commands, *, needs_store: bool = True
    ) -> argparse.ArgumentParser:
        """`needs_store`: there must be a data dir, or settings that name engine and database."""
        added: argparse.ArgumentParser = group.add_parser(name, help=text, description=text)
        added.set_defaults(command=command, needs_store=needs_store)
        added.add_argument(
            "--data-dir",
            type=Path,
            default=Path(".cartstore"),
            metavar="D",
            help="where everything of one store is kept (default: %(default)s)",
        )
        return added

    up = add(
        "up", _up, "Run everything in the foreground: engine, database, API and worker.", needs_store=False
    )
    _add_address(up)
    up.add_argument(
        "--processes", type=_number(1, limits.PROCESSES_MAX), default=1, metavar="N", help="API processes"
    )
    up.add_argument(
        "--catalog",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a CSV to import at every start, instead of the demo catalog; may be repeated",
    )

    token = add("token", _token, "Print an access token (JWT) for this store.", needs_store=False)
    token.add_argument("--user", required=True, metavar="ID", help="the token's subject")
    token.add_argument("--scope", default="", help=f"space-separated, of {', '.join(SCOPES)}")
    token.add_argument(
        "--ttl",
        type=_number(1, limits.SETTING_MAX),
        default=TOKEN_TTL_SECONDS,
        metavar="SECONDS",
        help="how long it is valid (default: %(default)s)",
    )

    catalog = commands.add_parser("catalog", help="Import and list products.")
    actions = catalog.add_subparsers(required=True, metavar="ACTION")
    imported = add(
        "import",
        _catalog_import,
        "Import Shopify or WooCommerce exports (CSV), or products as NDJSON.",
        actions,
        needs_store=False,
    )
    imported.add_argument("files", type=Path, nargs="+", metavar="FILE")
    imported.add_argument(
        "--columns",
        type=_columns,
        default={},
        metavar='"THEIRS=OURS,..."',
        help='names of a CSV file\'s columns that are not known, as in "Código=SKU,Nombre=Name"',
    )
    add("list", _catalog_list, "List every variant with price and availability.", actions)

    migrated = add("migrate", _migrate, "Bring the database's tables to this version.")
    migrated.add_argument(
        "--to",
        metavar="REVISION",
        help="another revision, such as 0006: for going back to the version before (docs/operations.md)",
    )
    recover = add("recover", _recover, "Open the gate after a loss of the engine, showing progress.")
    recover.add_argument(
        "--rebuild",
        action="store_true",
        help="rebuild the engine from PostgreSQL even if nothing is wrong with it; waiting events are kept",
    )
    reconcile = add("reconcile", _reconcile, "Compare engine and record once, whole, and print what differs.")
    reconcile.add_argument("--dry-run", action="store_true", help="repair nothing")
    unfreeze = add("unfreeze", _unfreeze, "Let a SKU be sold again that a rejected event froze.")
    unfreeze.add_argument("sku", nargs="+", metavar="SKU", help="after its stock was put right")
    add("doctor", _doctor, "Say how the store is and when it acknowledges checkouts.")
    _add_address(add("api", _api, "Run one API process on what runs already."))
    add("worker", _worker, "Run one worker on what runs already.")
    return parser


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_number(0, 65_535), default=8_000, help="port to listen on (default: %(default)s)"
    )


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest} to {highest}")
        return number

    return parse


if __name__ == "__main__":
    sys.exit(main())
