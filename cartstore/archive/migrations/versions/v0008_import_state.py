"""Import state: what the last import said of each product and SKU; products that were deleted.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UP = (
    """
    CREATE TABLE import_state (
        product_id text DEFAULT '' NOT NULL,
        sku text DEFAULT '' NOT NULL,
        field text NOT NULL,
        value text NOT NULL,
        CONSTRAINT import_state_pkey PRIMARY KEY (product_id, sku, field),
        CONSTRAINT import_state_subject_check CHECK ((product_id = '') <> (sku = ''))
    )
    """,
    "CREATE INDEX import_state_sku_idx ON import_state (sku)",
    "COMMENT ON TABLE import_state IS"
    " 'What the last import said of each product and, whichever product has it, of each SKU; in JSON.'",
    "ALTER TABLE products ADD COLUMN deleted_revision bigint",
)

# A deleted product is one that is not on sale: that is how the version before shows it.
_DOWN = (
    "ALTER TABLE products DROP COLUMN deleted_revision",
    "DROP TABLE import_state",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
