"""Accounts, keys and admins over HTTP; who another site's page is taken for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from service import accounts, corrections, plugin_state
from service.account_tables import Account, AuditEntry
from service.database import session
from service.errors import ConflictError
from service.feedback import propose_correction
from service.groups import readers_of
from service.plugin_tables import PluginState
from service.review_tables import PluginSetting, VerifiedAnswer
from service.tables import (
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    Thumb,
    TrainingRun,
    metadata,
)
from tests.service.accounts import PASSWORD, Browser, make_person
from tests.service.conversations import Talk, make_talk
from tests.service.web_client import ORIGIN, web_app

NEW = "another quiet river at noon"


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Iterator[Litestar]:
    with web_app(engine, tmp_path, visitors="none") as running:
        yield running


@pytest.fixture
def admin(app: Litestar, engine: Engine) -> Browser:
    return signed_in(app, engine, "root", "admin")


def signed_in(app: Litestar, engine: Engine, name: str = "ada", role: Any = "employee") -> Browser:
    make_person(engine, name, role)
    browser = Browser(app)
    assert browser.sign_in(name).status_code == 200
    return browser


FORGED: list[dict[str, Any]] = [
    {"sec-fetch-site": None},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": None, "origin": "https://elsewhere.example"},
    {"sec-fetch-site": None, "origin": "null"},
    {"sec-fetch-site": None, "origin": "http://127.0.0.1.elsewhere.example"},
    {"sec-fetch-site": None, "origin": "http://127.0.0.1:8080"},
    {"sec-fetch-site": "same-origin", "origin": "https://elsewhere.example"},
    {"sec-fetch-site": None, "referer": ORIGIN},
]


@pytest.mark.parametrize("headers", FORGED)
def test_a_write_that_may_come_from_elsewhere_is_refused(
    app: Litestar, engine: Engine, headers: dict[str, Any]
) -> None:
    browser = signed_in(app, engine)
    for path, body in (
        ("/api/account/sign-out-everywhere", {}),
        ("/api/account/keys", {"name": "k", "scopes": ["chat"]}),
        ("/api/sign-in", {"name": "ada", "password": PASSWORD}),
        ("/api/ask", {"question": "x"}),
    ):
        assert browser.post(path, body, headers=headers).status_code == 403, path
    assert browser.get("/api/account").json()["keys"] == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_form_can_send_is_refused(app: Litestar, engine: Engine, kind: str) -> None:
    browser = signed_in(app, engine)
    sent = {"content": b'{"name": "Eve"}', "headers": {"content-type": kind}}
    assert browser.send("PATCH", "/api/account", **sent).status_code == 415


@pytest.mark.parametrize("origin", [ORIGIN, f"{ORIGIN}:80"])
def test_a_browser_that_tells_only_its_origin_may_write(
    app: Litestar, engine: Engine, origin: str
) -> None:
    browser = signed_in(app, engine)
    headers = {"sec-fetch-site": None, "origin": origin}
    body = {"name": "k", "scopes": ["chat"]}
    assert browser.post("/api/account/keys", body, headers=headers).status_code == 201


def test_beside_a_key_no_cookie_is_looked_at(app: Litestar, engine: Engine) -> None:
    browser = signed_in(app, engine)
    for header in ("Bearer guessed", "Basic YTpi", ""):
        headers = {"sec-fetch-site": None, "authorization": header}
        assert browser.post("/api/my/none", {}, headers=headers).status_code in (401, 404)
        assert browser.get("/api/me", headers=headers).status_code == 401, header


def test_a_key_is_shown_once_kept_as_a_hash_and_revoked_at_once(
    app: Litestar, engine: Engine
) -> None:
    browser = signed_in(app, engine)
    body = {"name": "report", "scopes": ["read", "chat"], "days": 7}
    made = browser.post("/api/account/keys", body).json()
    assert made["key"].startswith(made["prefix"])
    (listed,) = browser.get("/api/account").json()["keys"]
    assert (listed["name"], listed["scopes"]) == ("report", ["chat", "read"])
    assert made["key"] not in str(listed)
    with engine.connect() as connection:
        assert made["key"] not in str(connection.execute(text("SELECT * FROM api_key")).all())
    header = {"authorization": f"Bearer {made['key']}"}
    program = Browser(app)
    assert program.get("/api/me", headers=header).json()["method"] == "key"
    assert browser.get("/api/account").json()["keys"][0]["used_at"] is not None
    assert browser.delete(f"/api/account/keys/{made['id']}").status_code == 204
    assert program.get("/api/me", headers=header).status_code == 401


def test_a_key_gives_no_more_than_its_maker_has(app: Litestar, engine: Engine) -> None:
    browser = signed_in(app, engine)
    for scopes in (["operate"], ["admin"], []):
        body = {"name": "k", "scopes": scopes}
        assert browser.post("/api/account/keys", body).status_code == 422, scopes
    assert browser.post("/api/account/keys", {"name": "k", "scopes": ["all"]}).status_code == 400


def test_a_key_that_has_run_out_is_nobodys(app: Litestar, engine: Engine) -> None:
    browser = signed_in(app, engine)
    made = browser.post("/api/account/keys", {"name": "k", "scopes": ["read"], "days": 1}).json()
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_key SET expires_at = '2020-01-01'"))
    header = {"authorization": f"Bearer {made['key']}"}
    assert Browser(app).get("/api/me", headers=header).status_code == 401


def test_an_admin_sees_and_revokes_every_key(app: Litestar, engine: Engine, admin: Browser) -> None:
    browser = signed_in(app, engine)
    made = browser.post("/api/account/keys", {"name": "k", "scopes": ["read"]}).json()
    (listed,) = admin.get("/api/keys").json()["keys"]
    assert (listed["owner"], listed["prefix"]) == ("Ada", made["prefix"])
    assert admin.delete(f"/api/keys/{made['id']}").status_code == 204
    header = {"authorization": f"Bearer {made['key']}"}
    assert Browser(app).get("/api/me", headers=header).status_code == 401


def test_a_new_password_ends_all_other_sessions(app: Litestar, engine: Engine) -> None:
    browser, other = signed_in(app, engine), Browser(app)
    other.sign_in()
    path = "/api/account/password"
    wrong = {"password": "not this", "new_password": NEW}
    assert browser.post(path, wrong).status_code == 422
    assert browser.post(path, {"password": PASSWORD, "new_password": NEW}).status_code == 204
    assert browser.get("/api/me").status_code == 200
    assert other.get("/api/me").status_code == 401
    assert Browser(app).sign_in().status_code == 401
    assert Browser(app).sign_in("ada", NEW).status_code == 200


def test_one_browser_or_all_are_signed_out(app: Litestar, engine: Engine) -> None:
    one, other = signed_in(app, engine), Browser(app)
    other.sign_in()
    sessions = one.get("/api/account").json()["sessions"]
    (away,) = [row["id"] for row in sessions if not row["current"]]
    assert one.delete(f"/api/account/sessions/{away}").status_code == 204
    assert other.get("/api/me").status_code == 401
    other.sign_in()
    assert one.post("/api/account/sign-out-everywhere").status_code == 204
    assert other.get("/api/me").status_code == 401


def test_a_reset_link_takes_a_new_password_once(
    app: Litestar, engine: Engine, admin: Browser
) -> None:
    browser = signed_in(app, engine)
    number = browser.get("/api/me").json()["id"]
    lost, found = (admin.post(f"/api/people/{number}/reset").json()["link"] for _ in range(2))
    use = {"password": NEW}
    fresh = Browser(app)
    assert fresh.post("/api/welcome", {**use, "token": lost.split("#")[1]}).status_code == 404
    assert fresh.post("/api/welcome", {**use, "token": found.split("#")[1]}).status_code == 200
    assert browser.get("/api/me").status_code == 401
    assert fresh.get("/api/me").json()["id"] == number


def test_an_invitation_gives_the_role_and_can_be_withdrawn(app: Litestar, admin: Browser) -> None:
    made = admin.post("/api/invitations", {"role": "reviewer", "name": "Zoe"}).json()
    (waiting,) = admin.get("/api/invitations").json()
    assert (waiting["role"], waiting["name"]) == ("reviewer", "Zoe")
    token = made["link"].split("#")[1]
    assert Browser(app).post("/api/welcome/look", {"token": token}).json()["name"] == "Zoe"
    assert admin.delete(f"/api/invitations/{waiting['id']}").status_code == 204
    assert Browser(app).post("/api/welcome/look", {"token": token}).status_code == 404
    assert admin.delete(f"/api/invitations/{waiting['id']}").status_code == 404


def test_an_admin_puts_people_into_groups(app: Litestar, engine: Engine, admin: Browser) -> None:
    number = signed_in(app, engine).get("/api/me").json()["id"]
    changed = admin.patch(f"/api/people/{number}", {"groups": ["HR", "hr ", "Board"]})
    assert changed.json()["groups"] == ["board", "hr"]
    assert admin.patch(f"/api/people/{number}", {"groups": [""]}).status_code == 422
    people = {row["id"]: row["groups"] for row in admin.get("/api/people").json()["people"]}
    assert people[number] == ["board", "hr"]
    assert admin.patch(f"/api/people/{number}", {"role": "reviewer"}).json()["groups"]
    with session(engine) as opened:
        assert "group:hr" in readers_of(opened, opened.get_one(Person, number))
    admin.post(f"/api/people/{number}/erase")
    with session(engine) as opened:
        assert readers_of(opened, opened.get_one(Person, number)) == ("everyone",)


def test_the_last_admin_stays(app: Litestar, engine: Engine, admin: Browser) -> None:
    number = admin.get("/api/me").json()["id"]
    path = f"/api/people/{number}"
    assert admin.patch(path, {"role": "employee"}).status_code == 409
    assert admin.patch(path, {"disabled": True}).status_code == 409
    assert admin.post("/api/account/erase", {"password": PASSWORD}).status_code == 409
    assert admin.get("/api/people").status_code == 200
    make_person(engine, "second", "admin")
    assert admin.patch(path, {"role": "employee"}).status_code == 200
    assert admin.get("/api/people").status_code == 403


def test_two_admins_who_remove_one_another_at_once_leave_one(engine: Engine) -> None:
    pair = [make_person(engine, name, "admin") for name in ("ada", "eve")]

    def demote(person: Person) -> bool:
        try:
            with session(engine) as opened:
                accounts.set_role(opened, accounts.find(opened, person.id), "employee", "root")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(demote, pair)) == [False, True]
    with session(engine) as opened:
        assert accounts.has_admin(opened)


def test_an_erased_person_leaves_votes_without_a_name(
    app: Litestar, engine: Engine, admin: Browser
) -> None:
    talk = make_talk(engine)
    talk.vote_everything()
    with session(engine) as opened:
        opened.add(Account(person_id=talk.person.id, sign_in_name="ada"))
    assert admin.post(f"/api/people/{talk.person.id}/erase").status_code == 204
    with session(engine) as opened:
        person = opened.get_one(Person, talk.person.id)
        assert (person.name, person.kind, person.role) == ("Erased person", "erased", "employee")
        assert opened.get(Account, talk.person.id) is None
        talks = opened.exec(select(Conversation)).all()
        assert [(row.title, row.deleted_at is not None) for row in talks] == [("", True)]
        assert len(opened.exec(select(Comparison)).all()) == 1
        assert len(opened.exec(select(Thumb)).all()) == 1
    assert "Ada" not in admin.get("/api/audit").text
    assert admin.post(f"/api/people/{talk.person.id}/erase").status_code == 404


def named_everywhere(engine: Engine, reviewer: Person) -> Talk:
    """Everything that keeps the name of a person who reviews and operates."""
    talk, name = make_talk(engine), reviewer.name
    with session(engine) as opened:
        proposed = propose_correction(opened, talk.person, talk.candidate_a, "There are 26.")
        corrections.accept(opened, proposed.id, name, reviewer)
        plugin_state.switch(opened, "webhook", False, reviewer)
        opened.add(PluginSetting(kind="source", name="faq", plugin="faq_csv", changed_by=name))
        opened.add(
            TrainingRun(
                state="refused",
                folder="",
                requested_by=name,
                reason="",
                error=f"rejected by {name}: it is rude",
            )
        )
    return talk


def test_an_erased_reviewer_leaves_their_name_nowhere(engine: Engine, admin: Browser) -> None:
    reviewer = make_person(engine, "evelyn", "operator")
    talk = named_everywhere(engine, reviewer)
    assert admin.post(f"/api/people/{reviewer.id}/erase").status_code == 204
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            rows = connection.execute(select(table)).all()
            assert "evelyn" not in str(rows).lower(), table.name
    with session(engine) as opened:
        gold = opened.exec(select(GoldAnswer)).one()
        assert (gold.person_id, gold.author) == (talk.person.id, "Erased person")
        assert opened.exec(select(VerifiedAnswer.by)).one() == "Erased person"
        off = opened.get_one(PluginState, "webhook")
        assert off.off_reason == "Erased person switched it off"
        assert opened.exec(select(TrainingRun.error)).one() == "rejected by a person: it is rude"


def test_where_another_has_the_same_name_only_what_is_surely_theirs_loses_it(
    engine: Engine, admin: Browser
) -> None:
    reviewer = make_person(engine, "evelyn", "operator")
    named_everywhere(engine, reviewer)
    with session(engine) as opened:
        opened.add(Person(name="Evelyn"))
    assert admin.post(f"/api/people/{reviewer.id}/erase").status_code == 204
    with session(engine) as opened:
        assert opened.exec(select(VerifiedAnswer.by)).one() == "Erased person"
        assert opened.exec(select(GoldAnswer.author)).one() == "Erased person"
        assert opened.get_one(PluginState, "webhook").switched_by == "Evelyn"
        assert opened.exec(select(PluginSetting.changed_by)).one() == "Evelyn"
        assert opened.exec(select(TrainingRun.error)).one() == "rejected by Evelyn: it is rude"


def test_ones_own_data_come_without_secrets(app: Litestar, engine: Engine) -> None:
    browser = signed_in(app, engine)
    browser.post("/api/account/keys", {"name": "k", "scopes": ["chat"]})
    response = browser.get("/api/account/export")
    assert "attachment" in response.headers["content-disposition"]
    found = response.json()
    assert (found["person"]["name"], found["keys"][0]["name"]) == ("Ada", "k")
    assert "hash" not in response.text
    assert "argon2" not in response.text


def test_people_are_found_and_listed_in_pages(
    app: Litestar, engine: Engine, admin: Browser
) -> None:
    with session(engine) as opened:
        for at in range(130):
            person = Person(name=f"Person {at:03}")
            opened.add(person)
            opened.flush()
            opened.add(Account(person_id=person.id, sign_in_name=f"p{at}@company.example"))
    first = admin.get("/api/people").json()
    rest = admin.get("/api/people", params={"after": first["next"]}).json()
    names = [row["name"] for row in first["people"] + rest["people"]]
    assert names == sorted(names)
    assert (len(names), rest["next"]) == (131, None)
    found = admin.get("/api/people", params={"search": "P77@"}).json()["people"]
    assert [row["name"] for row in found] == ["Person 077"]
    assert admin.get("/api/people", params={"after": "nonsense"}).status_code == 422


def test_the_record_says_who_did_what_and_cannot_be_changed(engine: Engine, admin: Browser) -> None:
    admin.post("/api/invitations", {"role": "operator"})
    shown = admin.get("/api/audit", params={"action": "person.invited"}).json()["entries"]
    assert [(row["by"], row["details"]) for row in shown] == [("Root", {"role": "operator"})]
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_entry"))
    with session(engine) as opened:
        assert opened.exec(select(AuditEntry)).all()
