"""The record: catalog, stock and its ledger, payments, orders, the event feed and the cursor.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, and not made from tables.py: a migration says what was true when it was written.
_UP = (
    """
    CREATE TABLE meta (
        id smallint DEFAULT 1 NOT NULL,
        namespace text NOT NULL,
        partitions integer NOT NULL,
        key_layout integer NOT NULL,
        CONSTRAINT meta_pkey PRIMARY KEY (id),
        CONSTRAINT meta_id_check CHECK (id = 1)
    )
    """,
    "COMMENT ON TABLE meta IS 'One row: which deployment this record belongs to.'",
    """
    CREATE TABLE outbox_cursor (
        partition integer NOT NULL,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        nonce text NOT NULL,
        CONSTRAINT outbox_cursor_pkey PRIMARY KEY (partition),
        CONSTRAINT outbox_cursor_partition_check CHECK (partition >= 0),
        CONSTRAINT outbox_cursor_epoch_check CHECK (epoch >= 0),
        CONSTRAINT outbox_cursor_seq_check CHECK (seq >= 0)
    )
    """,
    "COMMENT ON TABLE outbox_cursor IS"
    " 'The last applied event of each partition; its row lock makes the drain single.'",
    "INSERT INTO outbox_cursor (partition, epoch, seq, nonce) VALUES (0, 0, 0, '')",
    """
    CREATE TABLE product_revisions (
        revision bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
        product_id text NOT NULL,
        doc jsonb NOT NULL,
        CONSTRAINT product_revisions_pkey PRIMARY KEY (revision)
    )
    """,
    "COMMENT ON TABLE product_revisions IS 'Every state that any product ever had; carts and orders"
    " refer to it, so rows stay for ever.'",
    "CREATE INDEX product_revisions_product_id_revision_idx ON product_revisions (product_id, revision)",
    """
    CREATE TABLE products (
        product_id text NOT NULL,
        revision bigint NOT NULL,
        title text NOT NULL,
        seller text,
        active boolean NOT NULL,
        CONSTRAINT products_pkey PRIMARY KEY (product_id),
        CONSTRAINT products_revision_key UNIQUE (revision),
        CONSTRAINT products_revision_fkey FOREIGN KEY (revision) REFERENCES product_revisions (revision)
    )
    """,
    "COMMENT ON TABLE products IS 'The current revision of each product, and what lists are filtered by.'",
    "CREATE INDEX products_seller_product_id_idx ON products (seller, product_id)",
    """
    CREATE TABLE variants (
        sku text NOT NULL,
        product_id text NOT NULL,
        position integer NOT NULL,
        current boolean NOT NULL,
        initial_quantity bigint DEFAULT 0 NOT NULL,
        CONSTRAINT variants_pkey PRIMARY KEY (sku),
        CONSTRAINT variants_product_id_fkey FOREIGN KEY (product_id) REFERENCES products (product_id),
        CONSTRAINT variants_position_check CHECK (position >= 0),
        CONSTRAINT variants_initial_quantity_check CHECK (initial_quantity >= 0)
    )
    """,
    "COMMENT ON TABLE variants IS"
    " 'Which product a SKU belongs to; `current` is false once the product lists it no longer.'",
    "CREATE INDEX variants_product_id_idx ON variants (product_id)",
    """
    CREATE TABLE stock (
        sku text NOT NULL,
        on_hand bigint NOT NULL,
        sold bigint NOT NULL,
        backordered bigint NOT NULL,
        CONSTRAINT stock_pkey PRIMARY KEY (sku),
        CONSTRAINT stock_on_hand_check CHECK (on_hand >= 0),
        CONSTRAINT stock_sold_check CHECK (sold >= 0),
        CONSTRAINT stock_backordered_check CHECK (backordered >= 0),
        CONSTRAINT stock_backordered_of_sold_check CHECK (backordered <= sold)
    )
    """,
    "COMMENT ON TABLE stock IS 'Sums of the ledger, as of the cursor.'",
    """
    CREATE TABLE payments (
        payment_id text NOT NULL,
        checkout_id text NOT NULL,
        checkout_type text NOT NULL,
        cart_id text NOT NULL,
        status text NOT NULL,
        amount_minor bigint NOT NULL,
        currency text NOT NULL,
        gateway text NOT NULL,
        method text NOT NULL,
        attempts integer NOT NULL,
        expires_at_ms bigint NOT NULL,
        created_at_ms bigint NOT NULL,
        fingerprint text NOT NULL,
        details_json text NOT NULL,
        CONSTRAINT payments_pkey PRIMARY KEY (payment_id),
        CONSTRAINT payments_checkout_id_key UNIQUE (checkout_id),
        CONSTRAINT payments_amount_minor_check CHECK (amount_minor >= 0),
        CONSTRAINT payments_attempts_check CHECK (attempts >= 0),
        CONSTRAINT payments_created_at_ms_check CHECK (created_at_ms >= 0),
        CONSTRAINT payments_expires_at_ms_check CHECK (expires_at_ms >= created_at_ms),
        CONSTRAINT payments_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT payments_status_check
            CHECK (status IN ('pending', 'paid', 'expired', 'cancelled', 'refund_due', 'refunded')),
        CONSTRAINT payments_checkout_type_check
            CHECK (checkout_type IN ('single_item', 'partial', 'full_cart'))
    )
    """,
    "CREATE INDEX payments_cart_id_created_at_ms_payment_id_idx"
    " ON payments (cart_id, created_at_ms, payment_id)",
    "CREATE INDEX payments_pending_idx ON payments (expires_at_ms) WHERE status = 'pending'",
    """
    CREATE TABLE orders (
        order_id text NOT NULL,
        payment_id text NOT NULL,
        n integer NOT NULL,
        seller text NOT NULL,
        status text NOT NULL,
        release_reason text,
        total_minor bigint NOT NULL,
        created_at_ms bigint NOT NULL,
        CONSTRAINT orders_pkey PRIMARY KEY (order_id),
        CONSTRAINT orders_payment_id_n_key UNIQUE (payment_id, n),
        CONSTRAINT orders_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES payments (payment_id),
        CONSTRAINT orders_n_check CHECK (n >= 1),
        CONSTRAINT orders_total_minor_check CHECK (total_minor >= 0),
        CONSTRAINT orders_status_check
            CHECK (status IN ('pending', 'paid', 'released', 'refund_due', 'refunded')),
        CONSTRAINT orders_release_reason_check CHECK (release_reason IN ('expired', 'cancelled')),
        CONSTRAINT orders_released_for_a_reason_check
            CHECK (status <> 'released' OR release_reason IS NOT NULL),
        CONSTRAINT orders_kept_without_reason_check
            CHECK (status NOT IN ('pending', 'paid') OR release_reason IS NULL)
    )
    """,
    "CREATE INDEX orders_created_at_ms_order_id_idx ON orders (created_at_ms, order_id)",
    "CREATE INDEX orders_status_created_at_ms_order_id_idx ON orders (status, created_at_ms, order_id)",
    """
    CREATE TABLE order_lines (
        order_id text NOT NULL,
        n integer NOT NULL,
        line_id text NOT NULL,
        sku text NOT NULL,
        quantity bigint NOT NULL,
        held bigint NOT NULL,
        mode text NOT NULL,
        unit_price_minor bigint NOT NULL,
        revision bigint NOT NULL,
        first_held_at_ms bigint NOT NULL,
        properties_json text,
        CONSTRAINT order_lines_pkey PRIMARY KEY (order_id, n),
        CONSTRAINT order_lines_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (order_id),
        CONSTRAINT order_lines_n_check CHECK (n >= 1),
        CONSTRAINT order_lines_quantity_check CHECK (quantity >= 1),
        CONSTRAINT order_lines_held_check CHECK (held = CASE mode WHEN 'held' THEN quantity ELSE 0 END),
        CONSTRAINT order_lines_mode_check CHECK (mode IN ('held', 'backorder', 'untracked')),
        CONSTRAINT order_lines_unit_price_minor_check CHECK (unit_price_minor >= 0),
        CONSTRAINT order_lines_revision_check CHECK (revision >= 0),
        CONSTRAINT order_lines_first_held_at_ms_check CHECK (first_held_at_ms >= 0)
    )
    """,
    "COMMENT ON TABLE order_lines IS 'What was bought, at the price it was sold for; names and images"
    " are those of its revision.'",
    """
    CREATE TABLE stock_ledger (
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        line integer NOT NULL,
        sku text NOT NULL,
        delta bigint NOT NULL,
        on_hand bigint NOT NULL,
        kind text NOT NULL,
        reason text NOT NULL,
        reference text NOT NULL,
        order_id text,
        fingerprint text NOT NULL,
        at_ms bigint NOT NULL,
        CONSTRAINT stock_ledger_pkey PRIMARY KEY (epoch, seq, line),
        CONSTRAINT stock_ledger_sku_kind_reference_key UNIQUE (sku, kind, reference),
        CONSTRAINT stock_ledger_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (order_id),
        CONSTRAINT stock_ledger_on_hand_check CHECK (on_hand >= 0),
        CONSTRAINT stock_ledger_kind_check CHECK (kind IN ('adjust', 'sale', 'return')),
        CONSTRAINT stock_ledger_sale_check
            CHECK (kind <> 'sale' OR (delta <= 0 AND order_id IS NOT NULL)),
        CONSTRAINT stock_ledger_return_check
            CHECK (kind <> 'return' OR (delta >= 0 AND order_id IS NOT NULL))
    )
    """,
    "COMMENT ON TABLE stock_ledger IS 'Every change of on_hand, in the order it happened.'",
    "CREATE INDEX stock_ledger_sku_seq_line_idx ON stock_ledger (sku, seq, line)",
    """
    CREATE TABLE events (
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        nonce text NOT NULL,
        type text NOT NULL,
        at_ms bigint NOT NULL,
        body jsonb NOT NULL,
        CONSTRAINT events_pkey PRIMARY KEY (epoch, seq)
    )
    """,
    "COMMENT ON TABLE events IS 'The applied events themselves: the feed for other systems.'",
    """
    CREATE TABLE rejected_events (
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        nonce text NOT NULL,
        type text NOT NULL,
        at_ms bigint NOT NULL,
        body text NOT NULL,
        reason text NOT NULL,
        rejected_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT rejected_events_pkey PRIMARY KEY (epoch, seq)
    )
    """,
    "COMMENT ON TABLE rejected_events IS"
    " 'Events that could not be applied, each an alarm that a person has to look at.'",
)

_TABLES_DEPENDENT_FIRST = (
    "rejected_events",
    "events",
    "stock_ledger",
    "order_lines",
    "orders",
    "payments",
    "stock",
    "variants",
    "products",
    "product_revisions",
    "outbox_cursor",
    "meta",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for table in _TABLES_DEPENDENT_FIRST:
        op.execute(f"DROP TABLE {table}")
