"""Cart snapshots, and the epoch below which no event is applied any more.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UP = (
    """
    ALTER TABLE outbox_cursor
        ADD COLUMN fence_epoch bigint DEFAULT 0 NOT NULL,
        ADD COLUMN snapshot_change bigint DEFAULT 0 NOT NULL,
        ADD COLUMN snapshot_at_ms bigint DEFAULT 0 NOT NULL,
        ADD CONSTRAINT outbox_cursor_fence_epoch_check CHECK (fence_epoch >= 0),
        ADD CONSTRAINT outbox_cursor_snapshot_change_check CHECK (snapshot_change >= 0),
        ADD CONSTRAINT outbox_cursor_snapshot_at_ms_check CHECK (snapshot_at_ms >= 0)
    """,
    """
    CREATE TABLE cart_snapshots (
        cart_id text NOT NULL,
        version bigint NOT NULL,
        status text NOT NULL,
        currency text NOT NULL,
        lines jsonb NOT NULL,
        lines_count integer NOT NULL,
        total_items bigint NOT NULL,
        subtotal_minor bigint NOT NULL,
        created_at_ms bigint NOT NULL,
        updated_at_ms bigint NOT NULL,
        lifetime_ms bigint NOT NULL,
        CONSTRAINT cart_snapshots_pkey PRIMARY KEY (cart_id),
        CONSTRAINT cart_snapshots_version_check CHECK (version >= 0),
        CONSTRAINT cart_snapshots_lines_count_check CHECK (lines_count >= 0),
        CONSTRAINT cart_snapshots_total_items_check CHECK (total_items >= 0),
        CONSTRAINT cart_snapshots_subtotal_minor_check CHECK (subtotal_minor >= 0),
        CONSTRAINT cart_snapshots_status_check
            CHECK (status IN ('active', 'abandoned', 'converted', 'merged', 'expired'))
    )
    """,
    "COMMENT ON TABLE cart_snapshots IS"
    " 'Carts as they were a few seconds ago: what a lost engine is rebuilt from.'",
    "CREATE INDEX cart_snapshots_status_updated_at_ms_idx ON cart_snapshots (status, updated_at_ms)",
)

_DOWN = (
    "DROP TABLE cart_snapshots",
    """
    ALTER TABLE outbox_cursor
        DROP COLUMN fence_epoch, DROP COLUMN snapshot_change, DROP COLUMN snapshot_at_ms
    """,
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
