"""People with accounts, and browsers that sign in, for tests."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from litestar import Litestar
from sqlalchemy import Engine

from service import accounts
from service.database import session
from service.roles import Role
from service.tables import Person
from tests.service.web_client import ORIGIN

PASSWORD = "a quiet river in the morning"


def make_person(engine: Engine, name: str = "ada", role: Role = "employee") -> Person:
    """A person who signs in by this name and PASSWORD."""
    with session(engine) as opened:
        return accounts.create(opened, name.title(), name, PASSWORD, role, None)


class Browser:
    """A browser at an application in this process; it keeps cookies as browsers do."""

    def __init__(self, app: Litestar, origin: str = ORIGIN, address: str = "10.0.0.1") -> None:
        self.app, self.origin, self.address = app, origin, address
        self.cookies = httpx.Cookies()
        self.headers = {"sec-fetch-site": "same-origin", "user-agent": "Firefox/140.0 (Linux)"}

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.send("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.send("POST", path, json={} if body is None else body, **more)

    def patch(self, path: str, body: Any) -> httpx.Response:
        return self.send("PATCH", path, json=body)

    def delete(self, path: str) -> httpx.Response:
        return self.send("DELETE", path, json={})

    def sign_in(self, name: str = "ada", password: str = PASSWORD) -> httpx.Response:
        return self.post("/api/sign-in", {"name": name, "password": password})

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._send(method, path, more))

    async def _send(self, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(
            self.app, raise_app_exceptions=False, client=(self.address, 40000)
        )
        headers = {**self.headers, **more.pop("headers", {})}
        kept = {name: value for name, value in headers.items() if value is not None}
        async with httpx.AsyncClient(
            transport=transport, base_url=self.origin, cookies=self.cookies, headers=kept
        ) as client:
            response = await client.request(method, path, **more)
            self.cookies.clear()
            self.cookies.update(client.cookies)
            return response
