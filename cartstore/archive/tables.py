"""The tables of the record, as SQLAlchemy sees them. Owns names, types and constraints; a test holds them
to what the migrations make.

Times are milliseconds since the epoch on the engine's clock. Every counter has a CHECK: a number that
cannot be true cannot be stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from cartstore.model import (
    CartStatus,
    CheckoutType,
    FulfilmentState,
    OrderStatus,
    PaymentStatus,
    ReleaseReason,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def _one_of(column: str, values: Iterable[str], name: str | None = None) -> CheckConstraint:
    quoted = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({quoted})", name=name or column)


def _not_negative(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} >= 0", name=column) for column in columns]


def _partition() -> Column[int]:
    """Of the row. The default is for processes of key layout 4, which name none."""
    return Column("partition", Integer, nullable=False, server_default=text("0"))


meta = Table(
    "meta",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, server_default=text("1")),
    Column("namespace", Text, nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("key_layout", Integer, nullable=False),
    CheckConstraint("id = 1", name="id"),
    comment="One row: which deployment this record belongs to.",
)

outbox_cursor = Table(
    "outbox_cursor",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("nonce", Text, nullable=False),
    # Events of an older epoch come from an engine that was replaced, and are never applied.
    Column("fence_epoch", BigInteger, nullable=False, server_default=text("0")),
    # The last one that a recoverer drew, also if it died before the record refused the older ones.
    Column("drawn_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("snapshot_change", BigInteger, nullable=False, server_default=text("0")),
    Column("snapshot_at_ms", BigInteger, nullable=False, server_default=text("0")),
    # What a writer says of itself. A trigger refuses every other layout than that of `meta`, and stores NULL.
    Column("written_in_layout", Integer),
    *_not_negative(
        "partition", "epoch", "seq", "fence_epoch", "drawn_epoch", "snapshot_change", "snapshot_at_ms"
    ),
    comment="The last applied event of each partition; its row lock makes the drain single.",
)

customer_secret = Table(
    "customer_secret",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, server_default=text("1")),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("id = 1", name="id"),
    CheckConstraint("octet_length(secret) >= 32", name="secret"),
    comment="One row: what digests of e-mail addresses and phone numbers are made under. Never changed.",
)

product_revisions = Table(
    "product_revisions",
    metadata,
    Column("revision", BigInteger, Identity(always=True), primary_key=True),
    Column("product_id", Text, nullable=False),
    Column("doc", JSONB, nullable=False),
    # A revision is superseded since its product's next one was created.
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(None, "product_id", "revision"),
    comment="The states of every product that are current or that a cart, an order or an event refers to.",
)

products = Table(
    "products",
    metadata,
    Column("product_id", Text, primary_key=True),
    Column("revision", BigInteger, ForeignKey("product_revisions.revision"), nullable=False, unique=True),
    Column("title", Text, nullable=False),
    Column("seller", Text),
    Column("active", Boolean, nullable=False),
    # The product is deleted while this is its revision; whoever stores it anew need not know of the column.
    # Its row stays: the engine must know its SKUs as not on sale until another product takes them.
    Column("deleted_revision", BigInteger),
    Index(None, "seller", "product_id"),
    comment="The current revision of each product, and what lists are filtered by.",
)

variants = Table(
    "variants",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("product_id", Text, ForeignKey("products.product_id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("current", Boolean, nullable=False),
    Column("initial_quantity", BigInteger, nullable=False, server_default=text("0")),
    *_not_negative("position", "initial_quantity"),
    Index(None, "product_id"),
    comment="Which product a SKU belongs to; `current` is false once the product lists it no longer.",
)

import_state = Table(
    "import_state",
    metadata,
    Column("product_id", Text, nullable=False, server_default=text("''")),
    Column("sku", Text, nullable=False, server_default=text("''")),
    Column("field", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("product_id", "sku", "field"),
    CheckConstraint("(product_id = '') <> (sku = '')", name="subject"),
    Index(None, "sku"),
    comment="What the last import said of each product and, whichever product has it, of each SKU; in JSON.",
)

stock = Table(
    "stock",
    metadata,
    Column("sku", Text, nullable=False),
    Column("on_hand", BigInteger, nullable=False),
    Column("sold", BigInteger, nullable=False),
    Column("backordered", BigInteger, nullable=False),
    _partition(),
    PrimaryKeyConstraint("sku", "partition"),
    # Processes of key layout 4 store rows by way of it. It goes in the version after, before stock is spread.
    UniqueConstraint("sku"),
    *_not_negative("on_hand", "sold", "backordered", "partition"),
    CheckConstraint("backordered <= sold", name="backordered_of_sold"),
    comment="Sums of the ledger, as of the cursor.",
)

payments = Table(
    "payments",
    metadata,
    Column("payment_id", Text, primary_key=True),
    Column("checkout_id", Text, nullable=False, unique=True),
    Column("checkout_type", Text, nullable=False),
    Column("cart_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    # Text, not jsonb: kept as it came, and nothing that a buyer wrote can make PostgreSQL refuse it.
    Column("details_json", Text, nullable=False),
    # When address, contact and metadata were removed from details_json; NULL: they were not.
    Column("redacted_at_ms", BigInteger),
    _partition(),
    # Of the contact, trimmed and in lower case: what orders are searched by. Removed with the details.
    Column("email", Text),
    # When the money arrived. Kept when it goes back.
    Column("paid_at_ms", BigInteger),
    *_not_negative("amount_minor", "attempts", "created_at_ms", "partition"),
    CheckConstraint("expires_at_ms >= created_at_ms", name="expires_at_ms"),
    CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    _one_of("status", get_args(PaymentStatus)),
    _one_of("checkout_type", get_args(CheckoutType)),
    Index(None, "cart_id", "created_at_ms", "payment_id"),
    Index(
        "payments_email_idx",
        "email",
        "created_at_ms",
        "payment_id",
        postgresql_where=text("email IS NOT NULL"),
    ),
    Index("payments_pending_idx", "expires_at_ms", postgresql_where=text("status = 'pending'")),
    # What retention looks for: payments that were released and not redacted yet, oldest first.
    Index(
        "payments_unredacted_idx",
        "created_at_ms",
        "payment_id",
        postgresql_where=text("redacted_at_ms IS NULL AND status IN ('expired', 'cancelled')"),
    ),
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("payment_id", Text, ForeignKey("payments.payment_id"), nullable=False),
    Column("n", Integer, nullable=False),
    Column("seller", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("release_reason", Text),
    Column("total_minor", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    _partition(),
    CheckConstraint("n >= 1", name="n"),
    *_not_negative("total_minor", "partition"),
    _one_of("status", get_args(OrderStatus)),
    _one_of("release_reason", get_args(ReleaseReason)),
    CheckConstraint("status <> 'released' OR release_reason IS NOT NULL", name="released_for_a_reason"),
    CheckConstraint(
        "status NOT IN ('pending', 'paid') OR release_reason IS NULL", name="kept_without_reason"
    ),
    UniqueConstraint("payment_id", "n"),
    Index(None, "created_at_ms", "order_id"),
    Index(None, "status", "created_at_ms", "order_id"),
    Index(None, "seller", "created_at_ms", "order_id"),
)

order_lines = Table(
    "order_lines",
    metadata,
    Column("order_id", Text, ForeignKey("orders.order_id"), nullable=False),
    Column("n", Integer, nullable=False),
    Column("line_id", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("mode", Text, nullable=False),
    Column("unit_price_minor", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("first_held_at_ms", BigInteger, nullable=False),
    Column("properties_json", Text),
    PrimaryKeyConstraint("order_id", "n"),
    # Retention asks which product revisions no order refers to.
    Index(None, "revision"),
    # What was bought of a SKU, with a purchase limit or for whoever searches orders by it.
    Index(None, "sku"),
    CheckConstraint("n >= 1", name="n"),
    CheckConstraint("quantity >= 1", name="quantity"),
    CheckConstraint("held = CASE mode WHEN 'held' THEN quantity ELSE 0 END", name="held"),
    _one_of("mode", ("held", "backorder", "untracked")),
    *_not_negative("unit_price_minor", "revision", "first_held_at_ms"),
    comment="What was bought, at the price it was sold for; names and images are those of its revision.",
)

fulfilments = Table(
    "fulfilments",
    metadata,
    Column("partition", Integer, nullable=False, server_default=text("0")),
    Column("order_id", Text, ForeignKey("orders.order_id"), primary_key=True),
    Column("state", Text, nullable=False),
    Column("carrier", Text),
    Column("tracking", Text),
    Column("updated_at_ms", BigInteger, nullable=False),
    *_not_negative("partition", "updated_at_ms"),
    _one_of("state", get_args(FulfilmentState)),
    comment="What a shop did with paid orders; an order without a row is unfulfilled.",
)

stock_ledger = Table(
    "stock_ledger",
    metadata,
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    Column("sku", Text, nullable=False),
    Column("delta", BigInteger, nullable=False),
    Column("on_hand", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("order_id", Text, ForeignKey("orders.order_id")),
    Column("fingerprint", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    _partition(),
    PrimaryKeyConstraint("epoch", "seq", "line", "partition"),
    UniqueConstraint("sku", "kind", "reference"),
    *_not_negative("on_hand", "partition"),
    _one_of("kind", ("adjust", "sale", "return", "backorder")),
    CheckConstraint("kind <> 'sale' OR (delta <= 0 AND order_id IS NOT NULL)", name="sale"),
    CheckConstraint("kind <> 'return' OR (delta >= 0 AND order_id IS NOT NULL)", name="return"),
    CheckConstraint("kind <> 'backorder' OR (delta < 0 AND order_id IS NOT NULL)", name="backorder"),
    Index(None, "sku", "seq", "line"),
    comment="Every change of on_hand, in the order it happened.",
)

backorders = Table(
    "backorders",
    metadata,
    Column("order_id", Text, ForeignKey("orders.order_id"), nullable=False),
    Column("sku", Text, nullable=False),
    # Of the sale in the ledger.
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("owed", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    _partition(),
    PrimaryKeyConstraint("order_id", "sku"),
    *_not_negative("partition"),
    CheckConstraint("quantity >= 1", name="quantity"),
    CheckConstraint("owed BETWEEN 0 AND quantity", name="owed"),
    # Who is served next.
    Index("backorders_waiting_idx", "sku", "epoch", "seq", "line", postgresql_where=text("owed > 0")),
    comment="Units that paid orders waited for; `owed` of them are not there yet.",
)

cart_snapshots = Table(
    "cart_snapshots",
    metadata,
    Column("cart_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("lines", JSONB, nullable=False),
    Column("lines_count", Integer, nullable=False),
    Column("total_items", BigInteger, nullable=False),
    Column("subtotal_minor", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("lifetime_ms", BigInteger, nullable=False),
    _partition(),
    Column("watched_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("merged_into", Text, nullable=False, server_default=text("''")),
    *_not_negative(
        "version", "lines_count", "total_items", "subtotal_minor", "partition", "watched_until_ms"
    ),
    _one_of("status", get_args(CartStatus)),
    Index(None, "status", "updated_at_ms"),
    comment="Carts as they were a few seconds ago: what a lost engine is rebuilt from.",
)

events = Table(
    "events",
    metadata,
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    # 0 is what the engine wrote; from 1 on is what the record adds to the feed beside it.
    Column("line", Integer, nullable=False, server_default=text("0")),
    Column("nonce", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", JSONB, nullable=False),
    _partition(),
    # The partition last: the index serves processes that name none, too.
    PrimaryKeyConstraint("epoch", "seq", "line", "partition"),
    *_not_negative("partition"),
    # Retention removes personal data from the event of a checkout, which it knows by its payment.
    Index(
        "events_checkout_begun_idx",
        text("(body ->> 'payment_id')"),
        postgresql_where=text("type = 'checkout_begun'"),
    ),
    comment="The applied events themselves: the feed for other systems.",
)

retention = Table(
    "retention",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("events_gone_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("events_gone_seq", BigInteger, nullable=False, server_default=text("0")),
    *_not_negative("partition", "events_gone_epoch", "events_gone_seq"),
    comment="The last removed event of each partition; its row lock makes removal single.",
)

rejected_events = Table(
    "rejected_events",
    metadata,
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    # Text, because the body may be the very thing that jsonb refuses.
    Column("body", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rejected_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    _partition(),
    # Two histories may have issued the same position; their nonces differ.
    PrimaryKeyConstraint("epoch", "seq", "nonce", "partition"),
    *_not_negative("partition"),
    comment="Events that were not applied, each an alarm that a person has to look at.",
)

frozen_skus = Table(
    "frozen_skus",
    metadata,
    Column("sku", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("frozen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    _partition(),
    PrimaryKeyConstraint("sku", "partition"),
    *_not_negative("partition"),
    comment="SKUs that are not sold until an operator decides, each with the rejected event that froze it.",
)
