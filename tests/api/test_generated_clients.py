"""What generators make of the OpenAPI document: a Python client that type-checks, and buys something."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from conftest import SECRET, token_of
from documented import openapi_document
from openapi_spec_validator import validate

GENERATORS = Path(__file__).parents[1] / "generators"
MYPY_CACHE = Path(__file__).parents[2] / "build" / "generators" / "mypy"


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a generated package `cartstore_client`; a warning of its generator is a failure."""
    folder = tmp_path_factory.mktemp("client")
    source = folder / "openapi.json"
    source.write_bytes(msgspec.json.encode(openapi_document()))
    _run(
        str(Path(sys.executable).parent / "openapi-python-client"),
        *("generate", "--path", str(source), "--output-path", str(folder / "cartstore_client")),
        *("--meta", "none", "--config", str(GENERATORS / "python.yaml"), "--fail-on-warning"),
        folder=folder,
    )
    return folder


def _run(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_document_is_valid_by_the_specification() -> None:
    validate(openapi_document())


def test_python_client_has_all_operations_and_types(client_folder: Path) -> None:
    operations = {
        operation["operationId"]
        for item in openapi_document()["paths"].values()
        for operation in item.values()
    }

    _run(
        *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(MYPY_CACHE), "cartstore_client"),
        folder=client_folder,
    )

    modules = [path.stem for path in (client_folder / "cartstore_client" / "api").glob("*/*.py")]
    made = {name.replace("_", "") for name in modules} - {"init"}
    assert {name.lower() for name in operations} <= made


async def test_python_client_buys_something(
    api: Any, client_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(client_folder))
    generated = importlib.import_module("cartstore_client")
    models = importlib.import_module("cartstore_client.models")

    def call(module: str) -> Any:
        return importlib.import_module(f"cartstore_client.api.{module}").asyncio

    await api.sell()
    client = generated.AuthenticatedClient("http://shop.test", token_of("ana", secret=SECRET))
    transport = httpx.ASGITransport(app=api.app)
    headers = {"Authorization": f"Bearer {client.token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test", headers=headers) as http:
        client.set_async_httpx_client(http)

        added = await call("cart.add_line")(client=client, body=models.AddItem(sku="MUG", quantity=2))
        whole = await call("cart.set_quantity")(
            "MUG", client=client, body=models.SetQuantity(quantity=3), prefer="return=representation"
        )
        short = await call("cart.set_quantity")("MUG", client=client, body=models.SetQuantity(quantity=50))
        checkout = await call("checkout.begin_checkout")(
            client=client,
            idempotency_key="k1",
            body=models.BeginCheckout(
                payment_method="card",
                gateway="simulated",
                shipping_address=models.Address(street="1 Main St", city="Springfield", country="US"),
            ),
        )
        paid = await call("payments.simulate_payment")(
            checkout.payment.id, client=client, body=models.Simulate(outcome=models.SimulateOutcome.SUCCEED)
        )

    assert (added.line.quantity, added.summary.total_items) == (2, 2)
    assert (whole.items[0].quantity, whole.version > added.version) == (3, True)
    assert (short.code, short.available_quantity) == ("INSUFFICIENT_STOCK", 10)
    assert paid.status == models.PaymentDetailStatus.PAID
    assert paid.expires_at.tzinfo is not None
