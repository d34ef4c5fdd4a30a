"""`cartstore up` as people run it: a process of its own, with real children, ended and hurt in many ways."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from cartstore import supervisor
from cartstore.embedded import Engine
from cartstore.embedded.process import PR_SET_PDEATHSIG, prctl
from cartstore.errors import StoreUnavailable
from cartstore.settings import Settings
from cartstore.supervisor import Options, check_engine, run_up
from cartstore.urls import without_secret

PATIENCE_SECONDS = 60.0
NAMES = ("api", "engine", "postgres", "worker")


class Up:
    """One running `cartstore up`."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.output = data_dir.with_name("output.txt")
        with self.output.open("w") as output:
            self.process = cartstore(
                "up", "--port", "0", "--data-dir", str(data_dir), *arguments, stdout=output, **environment
            )
        eventually(lambda: "is ready" in self.text() or self.process.poll() is not None)
        assert "is ready" in self.text(), self.text()
        self.url = json.loads((data_dir / "run" / "services.json").read_text())["api"]

    def text(self) -> str:
        return self.output.read_text()

    def pids(self, name: str) -> list[int]:
        with suppress(FileNotFoundError):
            return [int(line) for line in (self.data_dir / "run" / f"{name}.pid").read_text().split()]
        return []

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.read()

    def is_ready(self) -> bool:
        with suppress(OSError):
            return self.ask("/health/ready")[0] == 200
        return False

    def is_well(self) -> bool:
        """Whether all parts are there, and not only those that carts need."""
        with suppress(OSError):
            return bool(json.loads(self.ask("/health/ready")[1])["status"] == "ok")
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def cartstore(*arguments: str, stdout: object = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARTSTORE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "cartstore.cli", *arguments],
        stdout=stdout,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        text=True,
        env=inherited | environment,
        # A test run that is killed leaves no `up` behind.
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """One command to its end: exit status and everything that it printed."""
    with cartstore(*arguments, **environment) as process:
        try:
            text, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            # Otherwise a command that goes on, where it should have refused, would be waited for without end.
            process.terminate()
        return process.returncode, text


def eventually(holds: Callable[[], bool]) -> None:
    """Poll until it holds. The bound is only there to end a test that hangs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextmanager
def private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Shared by tests that leave it as healthy as they found it."""
    with private_folder() as folder:
        up = Up(
            folder / "shop",
            "--processes",
            "2",
            CARTSTORE_LOG_FILE_MB="1",
            CARTSTORE_ACCESS_LOG="all",
            CARTSTORE_CURRENCY="JPY",
        )
        yield up
        up.stop()


@pytest.fixture
def folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


# --- what runs ---------------------------------------------------------------------------------------


def test_up_serves_and_names_its_processes(up: Up) -> None:
    assert up.ask("/health/live")[0] == 200
    assert up.ask("/health/ready")[0] == 200
    assert [len(up.pids(name)) for name in NAMES] == [2, 1, 1, 1]


def test_up_has_imported_the_demo_catalog(up: Up) -> None:
    status, body = up.ask("/v1/products?limit=250")

    products = json.loads(body)["items"]
    assert status == 200
    assert len(products) >= 30
    assert len({product["seller"] for product in products}) >= 5
    assert {product["currency"] for product in products} == {"USD"}, "whatever the shop's own currency is"


def test_up_prints_a_request_that_works_as_it_is(up: Up) -> None:
    request = re.search(r"^  (curl .*)$", up.text(), re.MULTILINE)
    assert request is not None
    address, body = re.search(r"(http\S+) .*-d '(.*)'", request[1]).groups()  # type: ignore[union-attr]

    status, answer = up.ask(address.removeprefix(up.url), json.loads(body))

    assert status == 201, answer
    assert json.loads(answer)["summary"]["total_items"] == 1


def test_readme_s_first_request_is_answered_as_it_says(up: Up) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(
        r"(/v1/cart/items) .*?-d '(.*?)'\n\nanswers \(shortened\):\n\n(.*?)\n\nThe unit", readme, re.DOTALL
    )
    assert found is not None

    status, answer = up.ask(found[1], json.loads(found[2]))

    assert status == 201, answer
    assert_tells(json.loads(found[3]), json.loads(answer))


def assert_tells(told: Any, found: Any, name: str = "") -> None:
    """Whatever is told is there and says the same, but for times and for changes that were made meanwhile."""
    if isinstance(told, dict):
        for key, value in told.items():
            assert key in found, f"{name}.{key}"
            assert_tells(value, found[key], f"{name}.{key}")
    elif name.endswith(".version"):
        # Each opening of the gate begins a further row of millions; this shop's engine was never away.
        assert told // 1_000_000 == found // 1_000_000, (name, found)
    elif not name.endswith((".expires_at", ".expires_in_seconds")):
        assert told == found, name


def test_up_tells_what_is_left_of_the_engine_s_memory(up: Up) -> None:
    found = re.search(
        rb"^cartstore_engine_memory_available_bytes (\S+)$", up.ask("/metrics")[1], re.MULTILINE
    )

    assert found is not None
    assert float(found[1]) > 0


def test_up_puts_a_log_aside_that_has_become_long(up: Up) -> None:
    log = up.data_dir / "log" / "worker.log"
    with log.open("ab") as file:
        file.write(b"a flood\n" * 200_000)

    eventually(lambda: log.stat().st_size < 1_000_000)

    assert log.with_suffix(".log.1").stat().st_size >= 1_600_000


def test_up_says_no_secret(up: Up) -> None:
    secrets = json.loads((up.data_dir / "secrets.json").read_text())
    printed = up.text() + "".join(log.read_text() for log in (up.data_dir / "log").iterdir())
    lines = b"".join(
        Path(f"/proc/{pid}/cmdline").read_bytes()
        for name in NAMES
        for pid in [*up.pids(name), up.process.pid]
    )

    assert not [name for name, secret in secrets.items() if secret in printed or secret.encode() in lines]


def test_token_opens_what_it_is_for(up: Up) -> None:
    status, token = run("token", "--user", "ann", "--scope", "admin", "--data-dir", str(up.data_dir))
    assert status == 0

    assert up.ask("/v1/cart", Authorization=f"Bearer {token.strip()}")[0] == 200
    assert up.ask("/v1/cart", Authorization=f"Bearer {token.strip()}x")[0] == 401


def test_catalog_list_shows_what_up_serves(up: Up) -> None:
    status, text = run("catalog", "list", "--data-dir", str(up.data_dir))

    assert status == 0
    assert "SC-MOON-26" in text
    assert "640.00 USD" in text


def test_catalog_import_takes_what_it_can_and_names_the_rest(up: Up, folder: Path) -> None:
    good = folder / "good.csv"
    good.write_text(
        "Handle,Title,Vendor,Published,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,"
        "Variant Inventory Policy,Variant Price\n"
        "tea,Tea,Hut,true,Title,Default Title,TEA-1,3,deny,4.50\n"
        "pot,Pot,Hut,true,Title,Default Title,POT-1,3,deny,cheap\n"
    )
    bad = folder / "bad.csv"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))

    status, text = run("catalog", "import", str(bad), str(good), "--data-dir", str(up.data_dir))

    assert status == 1
    assert "bad.csv" in text
    assert "Traceback" not in text
    assert re.search(r"good\.csv, line 3 .*", text)
    assert "1 product with 1 variant, 1 row left out" in text
    assert up.ask("/v1/stock/TEA-1")[0] == 200
    assert up.ask("/v1/stock/POT-1")[0] == 404


def test_catalog_import_names_an_absent_file(up: Up) -> None:
    status, text = run("catalog", "import", "/no/such.csv", "--data-dir", str(up.data_dir))

    assert (status, text) == (1, "cartstore: /no/such.csv cannot be read: No such file or directory.\n")


def test_migrate_changes_nothing_when_all_is_there(up: Up) -> None:
    assert run("migrate", "--data-dir", str(up.data_dir))[0] == 0


# --- what is refused ---------------------------------------------------------------------------------


def test_second_up_is_refused_for_its_data_dir_when_the_port_is_taken_too(up: Up) -> None:
    status, text = run("up", "--port", up.url.rpartition(":")[2], "--data-dir", str(up.data_dir))

    assert status == 2
    assert text.count("\n") == 1
    assert f"in use by another cartstore, process {up.process.pid}" in text
    assert up.is_ready()


def test_up_is_refused_and_starts_nothing_when_the_port_is_taken(up: Up, folder: Path) -> None:
    port = up.url.rpartition(":")[2]

    status, text = run("up", "--port", port, "--data-dir", str(folder / "other"))

    assert status == 2
    assert text == f"cartstore: Cannot listen on 127.0.0.1 port {port}: Address already in use.\n"
    assert list(folder.iterdir()) == []


def test_up_is_refused_when_the_host_is_nobody_s(folder: Path) -> None:
    status, text = run("up", "--host", "no.such.host.invalid", "--data-dir", str(folder / "shop"))

    assert status == 2
    assert "Cannot listen on no.such.host.invalid" in text


def test_up_is_refused_on_a_data_dir_of_another_version(folder: Path) -> None:
    (folder / "format").write_text("99\n")

    status, text = run("up", "--port", "0", "--data-dir", str(folder))

    assert status == 2
    assert "has format '99'" in text
    assert [path.name for path in folder.iterdir()] == ["format"]


def test_up_is_refused_when_a_catalog_is_no_file(folder: Path) -> None:
    status, text = run("up", "--data-dir", str(folder / "shop"), "--catalog", "/no/such.csv")

    assert status == 2
    assert "/no/such.csv" in text
    assert list(folder.iterdir()) == []


def test_up_stops_again_when_a_catalog_is_no_catalog(folder: Path) -> None:
    (folder / "poem.csv").write_text("Roses are red\n")

    status, text = run(
        "up", "--port", "0", "--data-dir", str(folder / "shop"), "--catalog", str(folder / "poem.csv")
    )

    assert status == 2
    assert "poem.csv" in text
    assert "Traceback" not in text
    assert not list((folder / "shop" / "run").glob("*.pid"))


def test_up_is_refused_when_the_engine_evicts(folder: Path) -> None:
    engine = Engine(folder / "engine", password="p4ss", config=["maxmemory-policy allkeys-lru"])
    engine.start()
    try:
        status, text = run(
            "up", "--port", "0", "--data-dir", str(folder / "shop"), CARTSTORE_REDIS_URL=engine.tcp_url()
        )
    finally:
        engine.stop()

    assert status == 2
    assert "evicts keys (maxmemory-policy is allkeys-lru)" in text
    assert "p4ss" not in text


def test_up_is_refused_when_the_engine_is_away(folder: Path) -> None:
    status, text = run(
        "up",
        *("--port", "0", "--data-dir", str(folder / "shop")),
        CARTSTORE_REDIS_URL="redis://:p4ss@127.0.0.1:1/0",
    )

    assert status == 1
    assert "The engine at redis://127.0.0.1:1/0 cannot be reached: connection refused." in text
    assert "p4ss" not in text


def test_up_stops_with_the_words_of_the_child_when_only_a_child_refuses_the_settings(folder: Path) -> None:
    program = folder / "cartstore_workers" / "__main__.py"
    program.parent.mkdir()
    program.with_name("__init__.py").touch()
    program.write_text("raise SystemExit(print('{}\\ncartstore: 2 problems:\\n- one\\n- two') or 2)")

    status, text = run(
        *("up", "--port", "0", "--data-dir", str(folder / "shop")),
        PYTHONPATH=str(folder),
        PYTHONUNBUFFERED="1",
    )

    assert status == 2
    assert [line for line in text.splitlines() if "catalog" not in line] == [
        "cartstore: 2 problems:",
        "- one",
        "- two",
    ]
    assert not list((folder / "shop" / "run").glob("*.pid"))


@pytest.mark.parametrize("program", [("api", "--port", "0"), ("worker",)], ids=["api", "worker"])
def test_child_says_one_line_when_the_store_refuses_its_settings(up: Up, program: tuple[str, ...]) -> None:
    status, text = run(*program, "--data-dir", str(up.data_dir), CARTSTORE_NAMESPACE="other")

    assert (status, text) == (
        2,
        "cartstore: The database was set up with namespace main, but this cartstore wants other.\n",
    )


def test_api_says_one_line_when_its_port_is_taken(up: Up) -> None:
    port = up.url.rpartition(":")[2]

    status, text = run("api", "--port", port, "--data-dir", str(up.data_dir))

    assert status == 2
    assert text == f"cartstore: Cannot listen on 127.0.0.1 port {port}: Address already in use.\n"


def test_api_says_one_line_when_the_database_is_away(up: Up) -> None:
    status, text = run(
        *("api", "--port", "0", "--data-dir", str(up.data_dir)),
        CARTSTORE_REDIS_URL="redis://127.0.0.1:1/0",
        CARTSTORE_DATABASE_URL="postgresql://u:p4ss@127.0.0.1:1/shop",
    )

    assert (status, text) == (
        3,
        "cartstore: The database at 127.0.0.1 port 1 cannot be reached: connection refused.\n",
    )


def test_check_engine_refuses_a_url_without_quoting_it() -> None:
    with pytest.raises(Exception, match="CARTSTORE_REDIS_URL is not a URL of an engine") as refusal:
        check_engine("redis://:half/p4ss@host")

    assert "p4ss" not in str(refusal.value)


def test_check_engine_refuses_an_old_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda *_: {"redis_version": "5.0.14"})

    with pytest.raises(Exception, match=r"Redis 5\.0\.14; 7\.0 is the oldest"):
        check_engine(engine.url())


def test_check_engine_passes_the_private_one(engine: Engine) -> None:
    check_engine(engine.url())

    with pytest.raises(StoreUnavailable) as refusal:
        check_engine(engine.url().replace("of%20the%20tests", "wr0ng"))

    assert "refuses the user and password of the URL" in refusal.value.for_operators
    assert "wr0ng" not in refusal.value.for_operators


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:p@host:1/0", "redis://host:1/0"),
        ("unix:///a/b?password=p&db=0", "unix:///a/b"),
        ("postgresql://u:p@/cartstore?host=/run", "postgresql:///cartstore in /run"),
    ],
)
def test_without_secret_shows_only_where_a_url_leads(url: str, shown: str) -> None:
    assert without_secret(url) == shown


# --- ends and restarts -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_up_starts_a_killed_child_again(up: Up, name: str) -> None:
    before = up.pids(name)

    os.kill(before[0], signal.SIGKILL)

    eventually(lambda: len(up.pids(name)) == len(before) and before[0] not in up.pids(name))
    assert is_alive(up.pids(name)[0])
    assert up.pids(name)[1:] == before[1:]
    eventually(up.is_well)
    assert "was ended by SIGKILL" in up.text()


def test_up_knows_its_processes_by_their_beats(up: Up) -> None:
    """Each under its kind, its number and the run of this `up`: so it finds out which of them hangs."""
    services = json.loads((up.data_dir / "run" / "services.json").read_text())

    def kinds() -> dict[str, set[tuple[str, str]]]:
        found: dict[str, set[tuple[str, str]]] = {}
        with redis.Redis.from_url(services["redis_url"], decode_responses=True) as client:
            for process in client.hkeys("{main:0}:beats"):
                kind, *_, pid, run = process.split(":")
                found.setdefault(run, set()).add((kind, pid))
        return found

    expected = {("up", str(up.process.pid)), ("worker", str(up.pids("worker")[0]))}
    expected |= {("api", str(pid)) for pid in up.pids("api")}
    eventually(lambda: any(expected <= its for its in kinds().values()))
    status, told = up.ask("/health/ready")
    assert status == 200, told
    assert json.loads(told)["checks"]["worker"]["ok"] is True
    assert up.ask("/health/serving")[0] == 200


def test_up_lets_connections_wait_while_its_api_restarts(up: Up) -> None:
    for pid in up.pids("api"):
        os.kill(pid, signal.SIGKILL)

    assert up.ask("/health/live")[0] == 200


def test_up_leaves_nothing_running_and_keeps_the_data_however_it_ends(folder: Path) -> None:
    seen = []
    token = ""
    # Told to stop, killed, interrupted: each start finds what the one before it has left.
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        up = Up(folder / "shop")
        token = token or run("token", "--user", "ann", "--data-dir", str(up.data_dir))[1].strip()
        added, _ = up.ask("/v1/cart/items", {"sku": "SC-MOON-26"}, Authorization=f"Bearer {token}")
        lines = json.loads(up.ask("/v1/cart", Authorization=f"Bearer {token}")[1])["items"]
        pids = [pid for name in NAMES for pid in up.pids(name)]
        status = up.stop(number)
        if number == signal.SIGKILL:
            # The kernel tells the children of a killed `up`; nobody waits for them.
            eventually(lambda pids=pids: not any(map(is_alive, pids)))
        left = [path.name for path in (up.data_dir / "run").iterdir() if path.suffix == ".pid"]
        seen.append((added, [line["sku"] for line in lines], len(pids), any(map(is_alive, pids)), status))
        assert left == [] or number == signal.SIGKILL
        assert ("demo catalog" in up.text()) == (number == signal.SIGTERM)

    # There is one Moon Jar, and it is in the cart from the first time on.
    assert seen == [
        (201, ["SC-MOON-26"], 4, False, 0),
        (409, ["SC-MOON-26"], 4, False, -signal.SIGKILL),
        (409, ["SC-MOON-26"], 4, False, 0),
    ]


def test_up_stops_when_its_cancellation_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    went_on: list[object] = []

    @asynccontextmanager
    async def no_parts(
        settings: Settings, _: object, **__: object
    ) -> AsyncIterator[tuple[Settings, list[object]]]:
        yield settings, []

    async def swallow(_: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE_SECONDS)

    monkeypatch.setattr(supervisor, "running_parts", no_parts)
    monkeypatch.setattr(supervisor, "check_engine", lambda _: None)
    monkeypatch.setattr(supervisor, "migrate", swallow)
    monkeypatch.setattr(supervisor, "announce", lambda *call: went_on.append(call))

    run_up(Settings(), Options(data_dir=folder / "shop", host="127.0.0.1", port=0, processes=1))

    assert went_on == []


def test_up_stops_when_told_so_before_it_is_ready(folder: Path) -> None:
    with cartstore("up", "--port", "0", "--data-dir", str(folder / "shop")) as process:
        eventually((folder / "shop" / "run" / "engine.pid").exists)
        pid = int((folder / "shop" / "run" / "engine.pid").read_text())
        process.terminate()
        text, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0, text
    assert "Traceback" not in text
    assert not is_alive(pid)


def test_up_starts_only_api_and_worker_when_urls_are_set(
    folder: Path, redis_url: str, database_url: str
) -> None:
    up = Up(
        folder / "shop",
        *("--host", "0.0.0.0"),
        CARTSTORE_REDIS_URL=redis_url,
        CARTSTORE_DATABASE_URL=database_url,
    )
    running = [name for name in NAMES if up.pids(name)]
    with socket.create_connection(("127.0.0.2", int(up.url.rpartition(":")[2])), timeout=PATIENCE_SECONDS):
        pass
    up.stop()

    assert running == ["api", "worker"]
    assert not (up.data_dir / "engine").exists()
    assert up.url.startswith("http://127.0.0.1:")


def test_up_imports_named_catalogs_instead_of_the_demo_and_stock_only_once(folder: Path) -> None:
    catalog = folder / "shop.csv"
    row = "Handle,Title,Vendor,Published,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,"
    row += (
        "Variant Inventory Policy,Variant Price\ntea,Tea,Hut,true,Title,Default Title,TEA-1,3,deny,{price}\n"
    )
    seen = []
    for price in ("4.50", "5.00"):
        catalog.write_text(row.format(price=price))
        up = Up(folder / "shop", "--catalog", str(catalog))
        products = json.loads(up.ask("/v1/products")[1])["items"]
        stock = json.loads(up.ask("/v1/stock/TEA-1")[1])
        up.stop()
        seen.append((len(products), products[0]["variants"][0]["price"], stock["on_hand"]))

    assert seen == [(1, "4.50", 3), (1, "5.00", 3)]
