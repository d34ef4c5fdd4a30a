"""The partition of every row, and the key layout that writes the cursor.

Processes of key layout 4 go on after it: they name no partition and write partition 0, and their statements
find their rows by the same columns as before. That ends when a process of layout 5 writes itself into `meta`.
From then on the trigger refuses what they write of the cursor, so they drain nothing, save no carts and draw
no epoch.

Going down puts layout 4 back into `meta`. The engine does not go down with it: it has to be emptied.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_PARTITIONED = (
    "events",
    "rejected_events",
    "stock_ledger",
    "stock",
    "payments",
    "orders",
    "cart_snapshots",
    "frozen_skus",
)

_KEYS = {
    "events": ("epoch", "seq"),
    "rejected_events": ("epoch", "seq", "nonce"),
    "stock_ledger": ("epoch", "seq", "line"),
    "stock": ("sku",),
    "frozen_skus": ("sku",),
}
"""Primary keys that become unique within a partition. Ids of payments, orders and carts are unique anyhow."""

_TRIGGER = (
    "ALTER TABLE outbox_cursor ADD COLUMN written_in_layout integer",
    # 55000: processes take it for a refusal that left nothing applied, and try again later.
    """
    CREATE FUNCTION outbox_cursor_check_layout() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        layout integer := (SELECT key_layout FROM meta);
    BEGIN
        -- Processes of layout 4 do not know the column, which is always NULL in the table.
        IF coalesce(NEW.written_in_layout, 4) <> layout THEN
            RAISE EXCEPTION 'the record is of key layout %, this process of %: end it',
                layout, coalesce(NEW.written_in_layout, 4)
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        NEW.written_in_layout := NULL;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER outbox_cursor_check_layout BEFORE UPDATE ON outbox_cursor
        FOR EACH ROW EXECUTE FUNCTION outbox_cursor_check_layout()
    """,
)


def upgrade() -> None:
    for table in _PARTITIONED:
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN partition integer DEFAULT 0 NOT NULL"
            f" CONSTRAINT {table}_partition_check CHECK (partition >= 0)"
        )
    for table, columns in _KEYS.items():
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey,"
            f" ADD CONSTRAINT {table}_pkey PRIMARY KEY ({', '.join(columns)}, partition)"
        )
    op.execute("ALTER TABLE stock ADD CONSTRAINT stock_sku_key UNIQUE (sku)")
    op.execute(
        "ALTER TABLE cart_snapshots"
        " ADD COLUMN watched_until_ms bigint DEFAULT 0 NOT NULL"
        " CONSTRAINT cart_snapshots_watched_until_ms_check CHECK (watched_until_ms >= 0),"
        " ADD COLUMN merged_into text DEFAULT '' NOT NULL"
    )
    for statement in _TRIGGER:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER outbox_cursor_check_layout ON outbox_cursor")
    op.execute("DROP FUNCTION outbox_cursor_check_layout()")
    op.execute("ALTER TABLE outbox_cursor DROP COLUMN written_in_layout")
    op.execute("ALTER TABLE cart_snapshots DROP COLUMN merged_into, DROP COLUMN watched_until_ms")
    op.execute("ALTER TABLE stock DROP CONSTRAINT stock_sku_key")
    for table, columns in _KEYS.items():
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey,"
            f" ADD CONSTRAINT {table}_pkey PRIMARY KEY ({', '.join(columns)})"
        )
    for table in _PARTITIONED:
        op.execute(f"ALTER TABLE {table} DROP COLUMN partition")
    op.execute("UPDATE meta SET key_layout = 4 WHERE key_layout = 5")
