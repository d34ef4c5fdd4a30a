"""Retention: when a revision was created, which payments are redacted, how far events are gone.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UP = (
    # Existing revisions count as created now: their age is not known, and too young is the safe side.
    "ALTER TABLE product_revisions ADD COLUMN created_at timestamp with time zone DEFAULT now() NOT NULL",
    "COMMENT ON TABLE product_revisions IS"
    " 'The states of every product that are current or that a cart, an order or an event refers to.'",
    "ALTER TABLE payments ADD COLUMN redacted_at_ms bigint",
    """
    CREATE INDEX payments_unredacted_idx ON payments (created_at_ms, payment_id)
        WHERE redacted_at_ms IS NULL AND status IN ('expired', 'cancelled')
    """,
    "CREATE INDEX order_lines_revision_idx ON order_lines (revision)",
    """
    CREATE INDEX events_checkout_begun_idx ON events ((body ->> 'payment_id'))
        WHERE type = 'checkout_begun'
    """,
    """
    CREATE TABLE retention (
        partition integer NOT NULL,
        events_gone_epoch bigint DEFAULT 0 NOT NULL,
        events_gone_seq bigint DEFAULT 0 NOT NULL,
        CONSTRAINT retention_pkey PRIMARY KEY (partition),
        CONSTRAINT retention_partition_check CHECK (partition >= 0),
        CONSTRAINT retention_events_gone_epoch_check CHECK (events_gone_epoch >= 0),
        CONSTRAINT retention_events_gone_seq_check CHECK (events_gone_seq >= 0)
    )
    """,
    "COMMENT ON TABLE retention IS"
    " 'The last removed event of each partition; its row lock makes removal single.'",
    "INSERT INTO retention (partition) VALUES (0)",
)

_DOWN = (
    "DROP TABLE retention",
    "DROP INDEX events_checkout_begun_idx",
    "DROP INDEX order_lines_revision_idx",
    "DROP INDEX payments_unredacted_idx",
    "ALTER TABLE payments DROP COLUMN redacted_at_ms",
    "COMMENT ON TABLE product_revisions IS 'Every state that any product ever had; carts and orders"
    " refer to it, so rows stay for ever.'",
    "ALTER TABLE product_revisions DROP COLUMN created_at",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
