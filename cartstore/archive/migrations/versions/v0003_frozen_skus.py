"""SKUs whose sale is stopped because an event about them could not be applied.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UP = (
    """
    CREATE TABLE frozen_skus (
        sku text NOT NULL,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        reason text NOT NULL,
        frozen_at timestamp with time zone DEFAULT now() NOT NULL,
        CONSTRAINT frozen_skus_pkey PRIMARY KEY (sku)
    )
    """,
    "COMMENT ON TABLE frozen_skus IS"
    " 'SKUs that are not sold until an operator decides, each with the rejected event that froze it.'",
)

_DOWN = ("DROP TABLE frozen_skus",)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
