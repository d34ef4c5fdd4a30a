"""The last epoch that was drawn, whatever became of who drew it.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UP = (
    """
    ALTER TABLE outbox_cursor
        ADD COLUMN drawn_epoch bigint DEFAULT 0 NOT NULL,
        ADD CONSTRAINT outbox_cursor_drawn_epoch_check CHECK (drawn_epoch >= 0)
    """,
)

_DOWN = ("ALTER TABLE outbox_cursor DROP COLUMN drawn_epoch",)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
