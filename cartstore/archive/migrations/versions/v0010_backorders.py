"""Backorders: which paid orders wait for units, and the events that tell of each one that got some.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_UP = (
    """
    CREATE TABLE backorders (
        order_id text NOT NULL,
        sku text NOT NULL,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        line integer NOT NULL,
        quantity bigint NOT NULL,
        owed bigint NOT NULL,
        created_at_ms bigint NOT NULL,
        partition integer DEFAULT 0 NOT NULL,
        CONSTRAINT backorders_pkey PRIMARY KEY (order_id, sku),
        CONSTRAINT backorders_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (order_id),
        CONSTRAINT backorders_partition_check CHECK (partition >= 0),
        CONSTRAINT backorders_quantity_check CHECK (quantity >= 1),
        CONSTRAINT backorders_owed_check CHECK (owed BETWEEN 0 AND quantity)
    )
    """,
    "CREATE INDEX backorders_waiting_idx ON backorders (sku, epoch, seq, line) WHERE owed > 0",
    "COMMENT ON TABLE backorders IS 'Units that paid orders waited for; `owed` of them are not there yet.'",
    "ALTER TABLE stock_ledger DROP CONSTRAINT stock_ledger_kind_check",
    # A downgrade leaves served backorders as sales, which the version before can read.
    "UPDATE stock_ledger SET kind = 'backorder' WHERE kind = 'sale' AND reason = 'backorder'",
    """
    ALTER TABLE stock_ledger
        ADD CONSTRAINT stock_ledger_kind_check CHECK (kind IN ('adjust', 'sale', 'return', 'backorder')),
        ADD CONSTRAINT stock_ledger_backorder_check
            CHECK (kind <> 'backorder' OR (delta < 0 AND order_id IS NOT NULL))
    """,
    # What an order bought of a SKU, less what its sale took out of stock, less what it got since.
    """
    INSERT INTO backorders (order_id, sku, epoch, seq, line, quantity, owed, created_at_ms)
    SELECT sale.order_id, sale.sku, sale.epoch, sale.seq, sale.line, bought.quantity + sale.delta,
        bought.quantity + sale.delta + coalesce(served.delta, 0), sale.at_ms
    FROM stock_ledger sale
    JOIN (
        SELECT order_id, sku, sum(quantity)::bigint AS quantity FROM order_lines
        WHERE mode <> 'untracked' GROUP BY order_id, sku
    ) bought USING (order_id, sku)
    LEFT JOIN (
        SELECT order_id, sku, sum(delta)::bigint AS delta FROM stock_ledger
        WHERE kind = 'backorder' GROUP BY order_id, sku
    ) served USING (order_id, sku)
    WHERE sale.kind = 'sale' AND bought.quantity + sale.delta > 0
    """,
    "ALTER TABLE events ADD COLUMN line integer DEFAULT 0 NOT NULL, DROP CONSTRAINT events_pkey",
    "ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (epoch, seq, line, partition)",
)

_DOWN = (
    "DELETE FROM events WHERE line > 0",
    "ALTER TABLE events DROP CONSTRAINT events_pkey, DROP COLUMN line",
    "ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (epoch, seq, partition)",
    "ALTER TABLE stock_ledger DROP CONSTRAINT stock_ledger_backorder_check,"
    " DROP CONSTRAINT stock_ledger_kind_check",
    "UPDATE stock_ledger SET kind = 'sale' WHERE kind = 'backorder'",
    "ALTER TABLE stock_ledger"
    " ADD CONSTRAINT stock_ledger_kind_check CHECK (kind IN ('adjust', 'sale', 'return'))",
    "DROP TABLE backorders",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
