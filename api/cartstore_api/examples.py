"""The examples of the OpenAPI document: what the documentation page fills in, and what a reader tries first.

Owns one body per operation that takes one, and one value per path parameter that has a fixed one. They name
a SKU of the demo catalog; the page puts one of the shop's own in its place. A test sends every one of them.
Parameters without an example (orders, payments, carts) the page takes from the answers before.
"""

from __future__ import annotations

from typing import Any, Final

SKU: Final = "NR-BECK-KIN-XS"
PRODUCT: Final = "becks-rain-shell"

_ADDRESS: Final = {
    "street": "1 Main St",
    "city": "Springfield",
    "postal_code": "12345",
    "country": "US",
}
_CSV: Final = """\
Handle,Title,Vendor,Option1 Name,Option1 Value,Variant SKU,Variant Price,Variant Inventory Qty,\
Variant Inventory Policy,Variant Inventory Tracker
tee,Tee,North Ridge,Size,M,TEE-M,19.99,10,deny,shopify
tee,,,,L,TEE-L,19.99,10,deny,shopify
"""

BODIES: Final[dict[str, Any]] = {
    "AddLine": {"sku": SKU, "quantity": 1},
    "SetQuantity": {"quantity": 2},
    "PutLines": {"items": [{"sku": SKU, "quantity": 1}], "mode": "all"},
    "ValidateCart": {},
    "CheckChanges": {},
    "AcceptChanges": {},
    "BeginCheckout": {
        "gateway": "simulated",
        "payment_method": "card",
        "contact": {"email": "ann@example.org"},
        "shipping_address": _ADDRESS,
    },
    "ConfirmPayment": {"outcome": "succeed"},
    "SimulatePayment": {"outcome": "succeed"},
    "PutProduct": {
        "title": "A mug",
        "options": ["Colour"],
        "variants": [{"sku": "MUG-BLUE", "options": {"Colour": "Blue"}, "price": "9.99"}],
    },
    "ImportProducts": _CSV,
    "AdjustStock": {"delta": 10, "reason": "delivery", "reference": "delivery-1"},
    "AdjustStocks": [{"sku": SKU, "delta": 10, "reason": "delivery", "reference": "delivery-2"}],
    "SetStock": {"on_hand": 100, "reason": "count", "reference": "count-1"},
    "SetFulfilment": {"state": "shipped", "carrier": "DHL", "tracking": "JD014600003"},
}

_PARAMETERS: Final = {"sku": SKU, "line_id": SKU, "product_id": PRODUCT}
_OWN_PARAMETERS: Final = {("PutProduct", "product_id"): "mug", ("DeleteProduct", "product_id"): "mug"}


def parameter_example(operation_id: str, name: str) -> str | None:
    """The value of a path parameter; None where it has to come from an answer."""
    return _OWN_PARAMETERS.get((operation_id, name)) or _PARAMETERS.get(name)
