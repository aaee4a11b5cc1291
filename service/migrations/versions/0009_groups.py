"""Groups of people, and which turns were answered from what not everybody may read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "person_group",
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name="fk_person_group_person_id_person"
        ),
        sa.PrimaryKeyConstraint("person_id", "name", name="pk_person_group"),
    )
    op.create_index("ix_person_group_name", "person_group", ["name"])
    op.add_column(
        "turn", sa.Column("restricted", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    """Back to documents for everybody alone."""
    op.drop_column("turn", "restricted")
    op.drop_index("ix_person_group_name", "person_group")
    op.drop_table("person_group")
