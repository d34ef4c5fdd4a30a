"""What readers of the record need: fulfilment, what orders are searched by, views for analysts.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLES = (
    "ALTER TABLE payments ADD COLUMN email text",
    "ALTER TABLE payments ADD COLUMN paid_at_ms bigint",
    # The details are text that a buyer wrote. Where jsonb refuses it there is no e-mail address.
    """
    CREATE FUNCTION pg_temp.email_of(details text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        RETURN nullif(lower(trim(details::jsonb #>> '{contact,email}')), '');
    EXCEPTION WHEN OTHERS THEN
        RETURN NULL;
    END $$
    """,
    "UPDATE payments SET email = pg_temp.email_of(details_json)",
    "DROP FUNCTION pg_temp.email_of(text)",
    # Since when an order is paid: by its event while that is kept, else by the ledger. Older orders of
    # untracked SKUs have neither.
    """
    UPDATE payments SET paid_at_ms = found.at_ms
    FROM (
        SELECT body ->> 'payment_id' AS payment_id, min(at_ms) AS at_ms
        FROM events WHERE type = 'payment_settled' AND body ->> 'outcome' = 'paid' GROUP BY 1
        UNION
        SELECT orders.payment_id, min(stock_ledger.at_ms)
        FROM stock_ledger JOIN orders ON orders.order_id = stock_ledger.order_id
        WHERE stock_ledger.kind = 'sale' GROUP BY 1
    ) AS found
    WHERE found.payment_id = payments.payment_id
    """,
    "CREATE INDEX payments_email_idx ON payments (email, created_at_ms, payment_id) WHERE email IS NOT NULL",
    "CREATE INDEX orders_seller_created_at_ms_order_id_idx ON orders (seller, created_at_ms, order_id)",
    """
    CREATE TABLE fulfilments (
        partition integer DEFAULT 0 NOT NULL,
        order_id text NOT NULL,
        state text NOT NULL,
        carrier text,
        tracking text,
        updated_at_ms bigint NOT NULL,
        CONSTRAINT fulfilments_pkey PRIMARY KEY (order_id),
        CONSTRAINT fulfilments_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (order_id),
        CONSTRAINT fulfilments_partition_check CHECK (partition >= 0),
        CONSTRAINT fulfilments_updated_at_ms_check CHECK (updated_at_ms >= 0),
        CONSTRAINT fulfilments_state_check
            CHECK (state IN ('unfulfilled', 'shipped', 'delivered', 'returned'))
    )
    """,
    "COMMENT ON TABLE fulfilments IS"
    " 'What a shop did with paid orders; an order without a row is unfulfilled.'",
)

_VIEWS = (
    """
    CREATE FUNCTION decimal_of(minor numeric, currency text) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE
            WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX',
                'UYI', 'VND', 'VUV', 'XAF', 'XOF', 'XPF') THEN round(minor, 0)
            WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN round(minor / 1000, 3)
            WHEN currency IN ('CLF', 'UYW') THEN round(minor / 10000, 4)
            ELSE round(minor / 100, 2)
        END
    $$
    """,
    "COMMENT ON FUNCTION decimal_of(numeric, text) IS 'Minor units of a currency as a decimal (ISO 4217).'",
    """
    CREATE VIEW v_orders AS
    SELECT orders.order_id, payments.checkout_id, orders.payment_id, payments.cart_id,
        nullif(orders.seller, '') AS seller, orders.status, orders.release_reason,
        payments.currency, decimal_of(orders.total_minor, payments.currency) AS total,
        lines.lines, lines.units,
        to_timestamp(orders.created_at_ms / 1000.0) AS created_at,
        to_timestamp(payments.paid_at_ms / 1000.0) AS paid_at,
        payments.gateway, payments.method AS payment_method, payments.attempts AS failed_attempts,
        coalesce(fulfilments.state, 'unfulfilled') AS fulfilment,
        fulfilments.carrier, fulfilments.tracking,
        to_timestamp(fulfilments.updated_at_ms / 1000.0) AS fulfilment_updated_at
    FROM orders
    JOIN payments ON payments.payment_id = orders.payment_id
    LEFT JOIN fulfilments ON fulfilments.order_id = orders.order_id
    CROSS JOIN LATERAL (
        SELECT count(*) AS lines, coalesce(sum(order_lines.quantity), 0) AS units
        FROM order_lines WHERE order_lines.order_id = orders.order_id
    ) AS lines
    """,
    "COMMENT ON VIEW v_orders IS 'One row per order. No personal data.'",
    "COMMENT ON COLUMN v_orders.total IS 'In the currency, as a decimal.'",
    "COMMENT ON COLUMN v_orders.units IS 'Units over all lines.'",
    "COMMENT ON COLUMN v_orders.paid_at IS"
    " 'When the money arrived; NULL: it did not, or before this was recorded. A refund leaves it.'",
    "COMMENT ON COLUMN v_orders.cart_id IS 'u. and the user, or g. and the guest.'",
    "COMMENT ON COLUMN v_orders.status IS 'pending, paid, released, refund_due or refunded.'",
    "COMMENT ON COLUMN v_orders.fulfilment IS 'unfulfilled, shipped, delivered or returned.'",
    """
    CREATE VIEW v_order_lines AS
    SELECT order_lines.order_id, order_lines.n AS line_number, order_lines.line_id, order_lines.sku,
        revisions.product_id, revisions.doc ->> 'title' AS product_title,
        nullif(orders.seller, '') AS seller, orders.status, payments.currency, order_lines.quantity,
        decimal_of(order_lines.unit_price_minor, payments.currency) AS unit_price,
        decimal_of(order_lines.unit_price_minor::numeric * order_lines.quantity, payments.currency)
            AS line_total,
        to_timestamp(orders.created_at_ms / 1000.0) AS created_at,
        to_timestamp(payments.paid_at_ms / 1000.0) AS paid_at
    FROM order_lines
    JOIN orders ON orders.order_id = order_lines.order_id
    JOIN payments ON payments.payment_id = orders.payment_id
    LEFT JOIN product_revisions AS revisions ON revisions.revision = order_lines.revision
    """,
    "COMMENT ON VIEW v_order_lines IS 'One row per line of an order, at the price it was sold for.'",
    "COMMENT ON COLUMN v_order_lines.product_title IS 'As it was when the buyer saw it.'",
    "COMMENT ON COLUMN v_order_lines.line_total IS 'unit_price times quantity.'",
    "COMMENT ON COLUMN v_order_lines.status IS 'Of its order.'",
    """
    CREATE VIEW v_stock AS
    SELECT variants.sku, variants.product_id, products.title AS product_title, products.seller,
        products.active, variants.current AS listed,
        coalesce(stock.on_hand, 0) AS on_hand, coalesce(stock.sold, 0) AS sold,
        coalesce(stock.backordered, 0) AS backordered
    FROM variants
    JOIN products ON products.product_id = variants.product_id
    LEFT JOIN (
        SELECT sku, sum(on_hand)::bigint AS on_hand, sum(sold)::bigint AS sold,
            sum(backordered)::bigint AS backordered
        FROM stock GROUP BY sku
    ) AS stock ON stock.sku = variants.sku
    """,
    "COMMENT ON VIEW v_stock IS"
    " 'One row per SKU, as of the last archived event. Holds are in the engine only.'",
    "COMMENT ON COLUMN v_stock.on_hand IS 'Units owned and not sold; some may be held by carts.'",
    "COMMENT ON COLUMN v_stock.sold IS 'Units sold, ever; 0 for a SKU whose stock is not counted.'",
    "COMMENT ON COLUMN v_stock.listed IS 'False: its product has this variant no longer.'",
    """
    CREATE VIEW v_carts AS
    SELECT cart_id, CASE WHEN cart_id LIKE 'u.%' THEN 'user' ELSE 'guest' END AS owner, status, currency,
        lines_count AS lines, total_items AS units,
        CASE WHEN currency = '' THEN NULL ELSE decimal_of(subtotal_minor, currency) END AS subtotal,
        to_timestamp(created_at_ms / 1000.0) AS created_at,
        to_timestamp(updated_at_ms / 1000.0) AS updated_at,
        to_timestamp((updated_at_ms + lifetime_ms) / 1000.0) AS expires_at
    FROM cart_snapshots
    """,
    "COMMENT ON VIEW v_carts IS 'One row per cart, as it was a few seconds ago.'",
    "COMMENT ON COLUMN v_carts.status IS 'active, abandoned, converted, merged or expired.'",
    "COMMENT ON COLUMN v_carts.subtotal IS 'At the prices that the buyer saw, as a decimal.'",
)

# Roles belong to the whole server, and not every owner of a database may make them. Then an administrator
# makes this one, as docs/operations.md says.
_ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cartstore_reader') THEN
        CREATE ROLE cartstore_reader NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END $$
"""
_GRANTS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cartstore_reader') THEN
        GRANT SELECT ON v_orders, v_order_lines, v_stock, v_carts TO cartstore_reader;
    END IF;
END $$
"""

_DOWN = (
    "DROP VIEW v_carts",
    "DROP VIEW v_stock",
    "DROP VIEW v_order_lines",
    "DROP VIEW v_orders",
    "DROP FUNCTION decimal_of(numeric, text)",
    "DROP TABLE fulfilments",
    "DROP INDEX orders_seller_created_at_ms_order_id_idx",
    "DROP INDEX payments_email_idx",
    "ALTER TABLE payments DROP COLUMN paid_at_ms",
    "ALTER TABLE payments DROP COLUMN email",
    # The role stays: it is the server's, and other databases may use it.
)


def upgrade() -> None:
    for statement in (*_TABLES, *_VIEWS, _ROLE, _GRANTS):
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
