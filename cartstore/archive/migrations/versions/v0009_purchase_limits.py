"""Purchase limits: the secret of customers' digests, and orders by SKU.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_UP = (
    """
    CREATE TABLE customer_secret (
        id smallint DEFAULT 1 NOT NULL,
        secret bytea NOT NULL,
        created_at timestamp with time zone DEFAULT now() NOT NULL,
        CONSTRAINT customer_secret_pkey PRIMARY KEY (id),
        CONSTRAINT customer_secret_id_check CHECK (id = 1),
        CONSTRAINT customer_secret_secret_check CHECK (octet_length(secret) >= 32)
    )
    """,
    "COMMENT ON TABLE customer_secret IS"
    " 'One row: what digests of e-mail addresses and phone numbers are made under. Never changed.'",
    "CREATE INDEX order_lines_sku_idx ON order_lines (sku)",
)

_DOWN = (
    "DROP INDEX order_lines_sku_idx",
    "DROP TABLE customer_secret",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
