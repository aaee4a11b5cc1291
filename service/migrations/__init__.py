"""Alembic's migrations; service.database runs them from here, no alembic.ini is needed."""
