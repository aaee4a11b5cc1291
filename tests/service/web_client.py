"""The web application in this process, without a policy: for handlers that answer no question."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar
from sqlalchemy import Engine

from service.app import create_app
from service.settings import Settings, TrainingSettings
from service.source_desk import SourceDesk

ORIGIN = "http://127.0.0.1"


@contextmanager
def web_app(
    engine: Engine, home: Path, desk: SourceDesk | None = None, **over: Any
) -> Iterator[Litestar]:
    """The application on this database, with `desk` for its plugins; nothing of it is started."""
    settings: dict[str, Any] = {
        "home": home,
        "database_url": engine.url.render_as_string(hide_password=False),
        "base_policy": "none",
        "visitors": "reviewer",
        "sync_schedule": None,
        "cleanup_schedule": None,
        "training": TrainingSettings(schedule=None),
    }
    app = create_app(Settings(**{**settings, **over}))
    if desk is not None:
        app.state["parts"] = dataclasses.replace(app.state.parts, sources=desk)
    try:
        yield app
    finally:
        app.state.parts.database.dispose()


class Caller:
    """Somebody who has opened the page of an application."""

    def __init__(self, app: Litestar) -> None:
        self._app, self._cookies = app, httpx.Cookies()
        self.me: dict[str, Any] = self.get("/api/me").json()

    def get(self, path: str, **query: str) -> httpx.Response:
        return self._send("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        return self._send("POST", path, json={} if body is None else body)

    def put(self, path: str, body: Any) -> httpx.Response:
        return self._send("PUT", path, json=body)

    def delete(self, path: str) -> httpx.Response:
        return self._send("DELETE", path, headers={"content-type": "application/json"})

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._answer(method, path, more))

    async def _answer(self, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport,
            base_url=ORIGIN,
            cookies=self._cookies,
            headers={"sec-fetch-site": "same-origin"},
        ) as client:
            response = await client.request(method, path, **more)
            self._cookies.update(client.cookies)
            return response
