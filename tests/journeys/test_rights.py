"""Who may do what: every route of the OpenAPI document, called as everybody, on everybody's things.

What is expected comes from the document alone: the role and the scope that a route
declares, and that a thing in an employee's route belongs to its owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import Engine

from service.database import migrate, open_database
from service.roles import ROLES, SCOPES, Role, may
from service.settings import Settings
from tests.journeys.rights_world import Somebody, body_for, make_somebody
from tests.service.web_client import ORIGIN, web_app

METHODS = ("get", "post", "put", "patch", "delete")

PUBLIC = {
    "GET /api/sign-in",
    "POST /api/sign-in",
    "POST /api/sign-out",
    "POST /api/welcome/look",
    "POST /api/welcome",
    "GET /api/sign-in/provider",
    "GET /api/sign-in/provider/callback",
    "GET /health/live",
    "GET /health/ready",
}
"""Every route that needs nobody to be signed in; a new one is to be thought about here."""

PAGE = "/static/", "/schema", "/{", "/"
"""Beginnings of what is not in the document: the page itself, its files, and the document."""

SHARED = {"passage_id", "model"}
"""Parameters of employees' routes that name nobody's own things."""

GIVEN = {"kind": "preference", "queue": "answers", "name": "none", "form": "jsonl"}
"""Parameters that name a kind of thing, with one that there is."""

MISSING = "ffffffffffffffff"


class Route(NamedTuple):
    """A route as the document tells it. `role` is None where no session may, `scope` None where
    no key may."""

    method: str
    path: str
    public: bool
    role: Role | None
    scope: str | None
    parameters: tuple[str, ...]
    body: Any

    @property
    def name(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def owned(self) -> str | None:
        """What the route names of a person's own things, in its path or body, if anything."""
        if (self.role or "employee") != "employee":
            return None
        if self.path == "/v1/feedback":
            return "candidate_id"
        return next((p for p in self.parameters if p not in SHARED and p not in GIVEN), None)


class World:
    """The application with its document, and a way to call it."""

    def __init__(self, app: Litestar, engine: Engine) -> None:
        self.app, self.engine = app, engine
        self.settings: Settings = app.state.parts.settings
        self.document = app.openapi_schema.to_schema()
        self.routes = [
            _route(method, path, operation, self.document)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
            if method in METHODS
        ]

    def somebody(self, role: Role) -> Somebody:
        return make_somebody(self.engine, self.settings, role)

    def after(self, route: Route, somebody: Somebody, role: Role) -> Somebody:
        """Who goes on after a call: another one, if the call may have changed what they own."""
        return somebody if route.method == "get" else self.somebody(role)

    def check(self, work: Callable[[httpx.AsyncClient], Awaitable[list[str]]]) -> None:
        """Do the calls of `work`, which must find nothing wrong."""

        async def all_of_it() -> list[str]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            headers = {"sec-fetch-site": "same-origin", "content-type": "application/json"}
            async with httpx.AsyncClient(
                transport=transport, base_url=ORIGIN, headers=headers
            ) as client:
                return await work(client)

        wrong = asyncio.run(all_of_it())
        assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> Iterator[World]:
    home: Path = tmp_path_factory.mktemp("rights")
    engine = open_database(f"sqlite:///{home}/heed.db")
    migrate(engine)
    with web_app(engine, home, visitors="none") as app:
        # Nothing is loaded: without this the check for room would refuse before anybody is looked
        # at. Whoever may ask then hears that no policy is ready (503).
        monkeypatch_module.setattr(app.state.parts.answering, "check_room", lambda _person_id: None)
        yield World(app, engine)
    engine.dispose()


def test_every_route_says_who_may_call_it(world: World) -> None:
    silent = [
        route.name
        for route in world.routes
        if not route.public and route.role is None and route.scope is None
    ]
    assert silent == [], "give these security=needs(role, scope); see service/web/rights.py"
    assert {route.name for route in world.routes if route.public} == PUBLIC
    for route in world.routes:
        assert route.role is None or route.role in ROLES, route.name
        assert route.scope is None or route.scope in SCOPES, route.name


def test_what_is_not_in_the_document_is_the_page_and_the_document_itself(world: World) -> None:
    documented = {route.path for route in world.routes}
    for route in world.app.routes:
        plain = route.path_format
        assert plain in documented or not plain.startswith(("/api", "/v1", "/health")), plain


def test_every_thing_of_a_path_is_known_here(world: World) -> None:
    things = world.somebody("employee").things
    unknown = [route.name for route in world.routes if route.owned and route.owned not in things]
    assert unknown == [], "make one of these in rights_world.py, or name it in SHARED"


def test_nobody_is_let_in_without_session_or_key(world: World) -> None:
    async def calls(client: httpx.AsyncClient) -> list[str]:
        owner = world.somebody("admin")
        wrong = []
        for route in world.routes:
            for headers in ({}, {"cookie": "heed_session=guessed"}, {"authorization": "Bearer x"}):
                status = (await _call(client, route, owner.things, headers)).status_code
                good = status not in (401, 403) if route.public else status in (401, 403)
                is_key = "authorization" in headers
                if not route.public and not (is_key and route.scope is None):
                    good = status == 401
                if not good and not _is_sign_in(route, status):
                    wrong.append(f"{route.name} with {headers}: {status}")
        return wrong

    world.check(calls)


@pytest.mark.parametrize("role", ROLES)
def test_a_session_may_what_its_role_may_and_no_more(world: World, role: Role) -> None:
    async def calls(client: httpx.AsyncClient) -> list[str]:
        wrong, somebody = [], world.somebody(role)
        for route in world.routes:
            headers = {"cookie": f"heed_session={somebody.token}"}
            response = await _call(client, route, somebody.things, headers)
            allowed = route.public or (route.role is not None and may(role, route.role))
            if allowed:
                good = _is_let_in(route, response.status_code)
                somebody = world.after(route, somebody, role)
            else:
                good = response.status_code == (401 if route.role is None else 403)
            if not good:
                wrong.append(f"{route.name}: {response.status_code} {response.text[:200]}")
        return wrong

    world.check(calls)


@pytest.mark.parametrize("role", ROLES)
def test_a_key_may_what_its_scopes_and_its_owners_role_may(world: World, role: Role) -> None:
    async def calls(client: httpx.AsyncClient) -> list[str]:
        wrong, somebody = [], world.somebody(role)
        for route in (route for route in world.routes if not route.public):
            for scope in tuple(somebody.keys):
                headers = {"authorization": f"Bearer {somebody.keys[scope]}"}
                response = await _call(client, route, somebody.things, headers)
                has_scope = route.scope is not None and scope in (route.scope, "all")
                if has_scope and may(role, route.role or "employee"):
                    good = _is_let_in(route, response.status_code)
                    somebody = world.after(route, somebody, role)
                else:
                    good = response.status_code == 403
                if not good:
                    wrong.append(f"{route.name} with {scope}: {response.status_code}")
        return wrong

    world.check(calls)


@pytest.mark.parametrize("role", ["employee", "admin"])
def test_what_is_another_persons_or_deleted_is_as_if_it_had_never_been(
    world: World, role: Role
) -> None:
    async def calls(client: httpx.AsyncClient) -> list[str]:
        wrong = []
        other = world.somebody("employee")
        for route in (route for route in world.routes if route.owned):
            somebody, name = world.somebody(role), str(route.owned)
            tried = {"another's": other.things}
            if name in somebody.deleted:
                tried["deleted"] = somebody.deleted
            for headers in _ways(route, somebody):
                none = await _call(client, route, {name: MISSING}, headers)
                if none.status_code != 404:
                    wrong.append(f"{route.name} of none: {none.status_code} {none.text[:200]}")
                for whose, things in tried.items():
                    answer = await _call(client, route, things, headers)
                    same = answer.text.replace(things[name], MISSING) == none.text
                    if answer.status_code != 404 or not same:
                        wrong.append(f"{route.name} {whose}: {answer.status_code} {answer.text}")
        return wrong

    world.check(calls)


def test_a_key_is_worth_no_more_than_its_owner_is_now(world: World) -> None:
    """A key that an admin made, after they became an employee."""

    async def calls(client: httpx.AsyncClient) -> list[str]:
        from service import accounts
        from service.database import session

        world.somebody("admin")
        owner = world.somebody("admin")
        with session(world.engine) as opened:
            accounts.set_role(opened, accounts.find(opened, owner.person.id), "employee", "root")
        headers = {"authorization": f"Bearer {owner.keys['all']}"}
        statuses = [
            (route.name, (await _call(client, route, owner.things, headers)).status_code)
            for route in world.routes
            if route.role not in (None, "employee")
        ]
        assert statuses
        return [f"{name}: {status}" for name, status in statuses if status != 403]

    world.check(calls)


def _route(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> Route:
    requirements = operation.get("security", [])
    declared = {scheme: values for entry in requirements for scheme, values in entry.items()}
    content = operation.get("requestBody", {}).get("content", {})
    schema = next(iter(content.values()), {}).get("schema")
    return Route(
        method,
        path,
        requirements == [{}],
        cast("Role | None", (declared.get("session") or [None])[0]),
        (declared.get("key") or [None])[0],
        tuple(p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"),
        {} if schema is None else body_for(schema, document),
    )


async def _call(
    client: httpx.AsyncClient, route: Route, things: dict[str, str] | Any, headers: dict[str, str]
) -> httpx.Response:
    path = route.path
    for name in route.parameters:
        value = things.get(name, MISSING) if name == route.owned else GIVEN.get(name, MISSING)
        path = path.replace(f"{{{name}}}", value)
    body = None if route.method == "get" else route.body
    if route.name == "POST /v1/feedback":
        body = {**body, "id": things.get("candidate_id", MISSING)}
    return await client.request(route.method, path, json=body, headers=headers)


def _ways(route: Route, somebody: Somebody) -> list[dict[str, str]]:
    """By session and by key, where each may call the route at all."""
    session = [{"cookie": f"heed_session={somebody.token}"}] if route.role else []
    key = [{"authorization": f"Bearer {somebody.keys['all']}"}] if route.scope else []
    return session + key


def _is_let_in(route: Route, status: int) -> bool:
    """Whether the answer is one that only somebody who may call the route gets.

    Where the path names nobody's own thing, there may be no such thing."""
    named = bool(route.parameters) and route.owned is None
    refused = (401, 403, 405, 415, 500) if named or route.public else (401, 403, 404, 405, 415, 500)
    return status not in refused or _is_sign_in(route, status)


def _is_sign_in(route: Route, status: int) -> bool:
    """Whether this is the refusal of a name and password that nobody has."""
    return route.name == "POST /api/sign-in" and status == 401
