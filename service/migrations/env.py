"""Alembic's entry: runs the migrations on the connection that service.database hands over."""

from __future__ import annotations

from alembic import context

from service import (  # noqa: F401 - they bring their tables
    account_tables,
    plugin_tables,
    review_tables,
    tables,
    voting_tables,
)
from service.migrations.compared import include_name

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    include_name=include_name,
    # SQLite runs CREATE TABLE in a transaction too, though Alembic takes it not to.
    transactional_ddl=True,
    # SQLite alters tables by copying them.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
