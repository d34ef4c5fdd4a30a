"""The documentation page: every request that it fills in works."""

from __future__ import annotations

from importlib import resources
from typing import Any

from cartstore_api.examples import SKU
from documented import openapi_document

SEQUENCE = (
    *("ReadLiveness", "ReadServing", "ReadReadiness", "ReadMetrics", "ListProducts", "ReadProduct"),
    *("ReadStock", "CreateGuest", "PutProduct", "ImportProducts", "SetStock", "AdjustStock", "AdjustStocks"),
    *("AddLine", "SetQuantity", "PutLines", "ReadCart", "ReadSummary", "ValidateCart", "ExtendHolds"),
    *(
        "CheckChanges",
        "AcceptChanges",
        "ReadAnyCart",
        "BeginCheckout",
        "ListOrders",
        "ReadOrder",
        "ReadPayment",
    ),
    *("CancelOrder", "SimulatePayment", "CloseRefund", "AddLine", "BeginCheckout", "ConfirmPayment"),
    *("ListAllOrders", "ReadAnyOrder", "SetFulfilment", "ReadLedger", "ListEvents", "CheckConsistency"),
    *("Reconcile", "ReadStats", "AddLine", "RemoveLine", "ClearCart", "DeleteProduct"),
)
"""In the order in which a reader could try them."""

CALLED_BY_GATEWAYS = {"ReceiveWebhook"}


class Page:
    """Fills in requests as the page does: examples of the document, and ids that answers told."""

    def __init__(self) -> None:
        self.operations = {
            operation["operationId"]: (method, path, operation)
            for path, item in openapi_document()["paths"].items()
            for method, operation in item.items()
        }
        self._known: dict[str, str] = {}
        self._keys = 0

    def request(self, name: str) -> tuple[str, str, dict[str, Any]]:
        """Method, path, and what httpx is to be given beside them."""
        method, path, operation = self.operations[name]
        headers = {}
        for parameter in operation["parameters"]:
            if "$ref" in parameter:
                key = parameter["$ref"].rpartition("/")[2]
                parameter = openapi_document()["components"]["parameters"][key]
            if parameter["in"] == "path":
                value = parameter.get("example") or self._known[parameter["name"]]
                path = path.replace(f"{{{parameter['name']}}}", value)
            elif parameter["required"]:
                self._keys += 1
                headers[parameter["name"]] = f"key-{self._keys}"
        sent: dict[str, Any] = {"headers": headers}
        if "requestBody" in operation:
            (media, content), *_ = operation["requestBody"]["content"].items()
            headers["Content-Type"] = media
            sent["json" if media.endswith("json") else "content"] = content["example"]
        return method, path, sent

    def learn(self, told: Any) -> None:
        if isinstance(told, list):
            for entry in reversed(told):
                self.learn(entry)
        elif isinstance(told, dict):
            for member in told.values():
                self.learn(member)
            for name in ("order_id", "payment_id", "line_id"):
                if isinstance(told.get(name), str):
                    self._known[name] = told[name]
            if isinstance(told.get("payment"), dict):
                self._known["payment_id"] = told["payment"]["id"]
            if "owner" in told:
                self._known["cart_id"] = told["id"]


async def test_requests_that_the_page_fills_in_all_work(api: Any) -> None:
    with resources.as_file(resources.files("cartstore.demo") / "catalog.csv") as demo:
        await api.store.import_catalog(demo)
    page = Page()
    assert set(SEQUENCE) | CALLED_BY_GATEWAYS == set(page.operations), "an operation is not tried"

    for name in SEQUENCE:
        if name == "SimulatePayment":
            # The units of the cancelled order are gone when its money arrives: it is due back.
            await _count(api, 0)
        method, path, sent = page.request(name)
        answer = await api.admin.request(method, path, **sent)
        assert answer.is_success, (name, path, answer.text)
        if answer.headers.get("content-type") == "application/json":
            page.learn(answer.json())
        await api.archive()
        if name == "CloseRefund":
            await _count(api, 100)


async def _count(api: Any, on_hand: int) -> None:
    body = {"on_hand": on_hand, "reason": "count", "reference": f"count-{on_hand}-units"}
    await api.done(api.admin.put(f"/v1/admin/stock/{SKU}", json=body))


def test_page_fills_in_what_the_document_says_and_nothing_else() -> None:
    page = resources.files("cartstore_api").joinpath("static/docs.html").read_text()

    assert "content[1].example" in page
    assert "one.example || known[one.name]" in page
    assert "SAMPLES" not in page
