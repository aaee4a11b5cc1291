"""What documentation and deployment files are compared with."""

from __future__ import annotations

from pathlib import Path

from litestar import Litestar

from service.app import create_app
from service.database import migrate, open_database
from service.settings import Settings


def app_of(home: Path) -> Litestar:
    """The application on an empty database in that folder; not started."""
    settings = Settings(home=home)
    engine = open_database(settings.database)
    migrate(engine)
    engine.dispose()
    return create_app(settings)


def settings_names() -> set[str]:
    """HEED_... names of all settings, those of sections included."""
    names = {"HEED_CONFIG"}
    for name, field in Settings.model_fields.items():
        names.add(f"HEED_{name.upper()}")
        for inner in getattr(field.annotation, "model_fields", {}):
            names.add(f"HEED_{name.upper()}__{inner.upper()}")
    return names
