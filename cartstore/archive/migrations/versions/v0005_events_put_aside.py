"""Rejected events are told apart by their nonce too: two histories may have issued the same position.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UP = (
    "ALTER TABLE rejected_events DROP CONSTRAINT rejected_events_pkey",
    "ALTER TABLE rejected_events ADD CONSTRAINT rejected_events_pkey PRIMARY KEY (epoch, seq, nonce)",
    "COMMENT ON TABLE rejected_events IS"
    " 'Events that were not applied, each an alarm that a person has to look at.'",
)

_DOWN = (
    # The version before keeps one event for each position.
    "DELETE FROM rejected_events AS later USING rejected_events AS earlier"
    " WHERE (later.epoch, later.seq) = (earlier.epoch, earlier.seq) AND later.nonce > earlier.nonce",
    "ALTER TABLE rejected_events DROP CONSTRAINT rejected_events_pkey",
    "ALTER TABLE rejected_events ADD CONSTRAINT rejected_events_pkey PRIMARY KEY (epoch, seq)",
    "COMMENT ON TABLE rejected_events IS"
    " 'Events that could not be applied, each an alarm that a person has to look at.'",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
