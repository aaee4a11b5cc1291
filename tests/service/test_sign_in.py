"""Signing in by password: sessions, limits, one-time links, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median

import pytest
from argon2 import PasswordHasher
from litestar import Litestar
from sqlalchemy import Engine, text, update
from sqlmodel import col, select

from service import one_time_links
from service.account_tables import Account, AuditEntry, OneTimeLink, SignInSession
from service.database import session
from service.errors import ConflictError, InvalidInputError, TooManyAttemptsError
from service.passwords import check_new, hash_of, verify
from service.secret_tokens import token_hash
from service.sign_in_limits import SignInLimits
from service.sign_in_sessions import browser_name
from service.tables import now
from tests.service.accounts import PASSWORD, Browser, make_person
from tests.service.web_client import web_app


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Iterator[Litestar]:
    with web_app(engine, tmp_path, visitors="none") as running:
        yield running


def test_who_is_not_signed_in_is_nobody(app: Litestar) -> None:
    browser = Browser(app)
    response = browser.get("/api/me")
    assert response.status_code == 401
    assert "sign in" in response.json()["detail"]
    assert not browser.cookies


def test_a_name_and_password_begin_a_session(app: Litestar, engine: Engine) -> None:
    make_person(engine, role="reviewer")
    browser = Browser(app)
    response = browser.sign_in("  ADA ")
    assert response.json() == {"name": "Ada", "role": "reviewer"}
    cookie = response.headers["set-cookie"]
    for flag in ("heed_session=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=2592000"):
        assert flag in cookie
    assert "Secure" not in cookie
    me = browser.get("/api/me").json()
    told = (me["name"], me["role"], me["method"], me["demonstration"])
    assert told == ("Ada", "reviewer", "password", False)


def test_where_people_come_by_https_the_cookie_is_for_https_alone(
    engine: Engine, tmp_path: Path
) -> None:
    make_person(engine)
    public = "https://heed.company.example"
    with web_app(engine, tmp_path, visitors="none", public_url=public) as app:
        browser = Browser(app, origin=public)
        cookie = browser.sign_in().headers["set-cookie"]
        assert cookie.startswith("__Host-heed_session=")
        assert "Secure" in cookie
        assert browser.get("/api/me").json()["name"] == "Ada"
        token = browser.cookies["__Host-heed_session"]
        plain = {"cookie": f"heed_session={token}"}
        assert Browser(app, origin=public).get("/api/me", headers=plain).status_code == 401


def test_neither_password_nor_token_is_stored(app: Litestar, engine: Engine) -> None:
    make_person(engine)
    browser = Browser(app)
    browser.sign_in()
    token = browser.cookies["heed_session"]
    with engine.connect() as connection:
        accounts = str(connection.execute(text("SELECT * FROM account")).all())
        sessions = str(connection.execute(text("SELECT * FROM sign_in_session")).all())
    assert "$argon2id$" in accounts
    assert PASSWORD not in accounts
    assert token not in sessions
    assert token_hash(token) in sessions


def test_a_sign_in_begins_anew_and_ends_what_was(app: Litestar, engine: Engine) -> None:
    """Whoever planted a session in somebody's browser does not share theirs."""
    make_person(engine, "eve")
    make_person(engine)
    browser = Browser(app)
    browser.sign_in("eve")
    planted = browser.cookies["heed_session"]
    browser.sign_in("ada")
    assert browser.cookies["heed_session"] != planted
    other = Browser(app)
    other.cookies.set("heed_session", planted)
    assert other.get("/api/me").status_code == 401


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong"), ("nobody", PASSWORD), ("", "")])
def test_what_was_wrong_is_not_told(
    app: Litestar, engine: Engine, name: str, password: str
) -> None:
    make_person(engine)
    response = Browser(app).sign_in(name, password)
    assert response.status_code == 401
    assert response.json()["detail"] == "the name or the password is wrong"


def test_an_unknown_name_takes_as_long_as_a_wrong_password(app: Litestar, engine: Engine) -> None:
    make_person(engine)

    def spent(name: str) -> float:
        began = time.process_time()
        Browser(app).sign_in(name, "wrong")
        return time.process_time() - began

    spent("warm up")
    known, unknown = (median(spent(name) for _ in range(4)) for name in ("ada", "nobody"))
    assert 0.5 < unknown / known < 2


def test_a_hash_of_weaker_parameters_is_made_anew_at_sign_in(app: Litestar, engine: Engine) -> None:
    person = make_person(engine)
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with session(engine) as opened:
        opened.execute(update(Account).values(password_hash=weak))
    assert Browser(app).sign_in().status_code == 200
    with session(engine) as opened:
        kept = opened.get_one(Account, person.id).password_hash
    assert kept != weak
    assert verify(kept, PASSWORD) == (True, None)


def test_too_many_tries_are_refused_with_the_time_to_wait(app: Litestar, engine: Engine) -> None:
    make_person(engine)
    attacker, owner = Browser(app), Browser(app, address="10.0.0.2")
    for _ in range(10):
        assert attacker.sign_in("ada", "guess").status_code == 401
    refused = attacker.sign_in("Ada", PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 600
    assert "minute" in refused.json()["detail"]
    # Nobody can lock somebody out from elsewhere.
    assert owner.sign_in().status_code == 200


def test_tries_are_counted_by_account_and_by_address() -> None:
    limits = SignInLimits()
    for at in range(100):
        limits.count("ada", f"10.0.1.{at}")
    with pytest.raises(TooManyAttemptsError):
        limits.count("ada", "10.0.2.1")
    for at in range(100):
        limits.count(f"somebody-{at}", "10.0.3.1")
    with pytest.raises(TooManyAttemptsError) as refused:
        limits.count("another", "10.0.3.1")
    assert refused.value.retry_after_s > 500


def test_a_good_try_forgets_the_bad_ones() -> None:
    limits = SignInLimits()
    for _ in range(3):
        for _ in range(9):
            limits.count("ada", "10.0.0.1")
        limits.forget("ada", "10.0.0.1")


def test_failures_are_recorded_without_what_was_typed(app: Litestar, engine: Engine) -> None:
    person = make_person(engine)
    Browser(app).sign_in("ada", "wrong-password-typed")
    Browser(app).sign_in("my password in the wrong field", "x")
    with session(engine) as opened:
        rows = opened.exec(select(AuditEntry).where(AuditEntry.action == "sign_in.failed")).all()
    assert {row.target for row in rows} == {f"person:{person.id}", None}
    assert all(row.details == {"address": "10.0.0.1"} for row in rows)


def test_secrets_stand_in_no_log_line(
    app: Litestar, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    make_person(engine, role="admin")
    browser = Browser(app)
    browser.sign_in("ada", "a wrong secret")
    browser.sign_in()
    key = browser.post("/api/account/keys", {"name": "k", "scopes": ["chat"]}).json()["key"]
    link = browser.post("/api/invitations", {}).json()["link"]
    token = link.split("#")[1]
    Browser(app).post("/api/welcome/look", {"token": token})
    out, err = capfd.readouterr()
    assert "audit" in out
    for secret in ("a wrong secret", PASSWORD, browser.cookies["heed_session"], key, token):
        assert secret not in out + err


def test_a_session_ends_by_age_and_by_idleness(app: Litestar, engine: Engine) -> None:
    make_person(engine)
    for change in (
        {"expires_at": now() - timedelta(seconds=1)},
        {"seen_at": now() - timedelta(days=7, seconds=1)},
    ):
        browser = Browser(app)
        browser.sign_in()
        assert browser.get("/api/me").status_code == 200
        with session(engine) as opened:
            opened.execute(update(SignInSession).values(**change))
        assert browser.get("/api/me").status_code == 401


def test_a_visit_is_noted_now_and_then(app: Litestar, engine: Engine) -> None:
    make_person(engine)
    browser = Browser(app)
    browser.sign_in()
    before = now() - timedelta(days=2)
    with session(engine) as opened:
        opened.execute(update(SignInSession).values(seen_at=before))
    browser.get("/api/me")
    with session(engine) as opened:
        assert opened.exec(select(SignInSession.seen_at)).one() > before


def test_signing_out_ends_the_session_for_good(app: Litestar, engine: Engine) -> None:
    make_person(engine)
    browser = Browser(app)
    browser.sign_in()
    token = browser.cookies["heed_session"]
    assert browser.post("/api/sign-out").status_code == 204
    assert not browser.cookies
    browser.cookies.set("heed_session", token)
    assert browser.get("/api/me").status_code == 401


def test_a_disabled_person_is_out_at_once_and_stays_out(app: Litestar, engine: Engine) -> None:
    person = make_person(engine)
    make_person(engine, "root", "admin")
    browser, admin = Browser(app), Browser(app)
    browser.sign_in()
    admin.sign_in("root")
    key = browser.post("/api/account/keys", {"name": "k", "scopes": ["read"]}).json()["key"]
    bearer = {"authorization": f"Bearer {key}"}
    assert Browser(app).get("/api/me", headers=bearer).status_code == 200
    path = f"/api/people/{person.id}"
    assert admin.patch(path, {"disabled": True}).json()["disabled"] is True
    assert browser.get("/api/me").status_code == 401
    assert Browser(app).get("/api/me", headers=bearer).status_code == 401
    assert Browser(app).sign_in().status_code == 401
    admin.patch(path, {"disabled": False})
    assert Browser(app).sign_in().status_code == 200


def test_visitors_of_a_demonstration_are_nobody_where_people_sign_in(
    engine: Engine, tmp_path: Path
) -> None:
    with web_app(engine, tmp_path, visitors="admin") as app:
        browser = Browser(app)
        me = browser.get("/api/me").json()
        assert (me["role"], me["demonstration"], me["method"]) == ("admin", True, "visit")
    for role, status in (("none", 401), ("employee", 403)):
        with web_app(engine, tmp_path, visitors=role) as app:
            later = Browser(app)
            later.cookies = browser.cookies
            assert later.get("/api/people").status_code == status


def first_link(engine: Engine) -> str:
    with session(engine) as opened:
        return one_time_links.first_account(opened)


def test_the_first_account_is_made_by_a_link_that_works_once(app: Litestar, engine: Engine) -> None:
    token = first_link(engine)
    browser = Browser(app)
    assert browser.get("/api/sign-in").json()["first"] is True
    assert browser.post("/api/welcome/look", {"token": token}).json()["kind"] == "first"
    body = {"token": token, "name": "Ada", "sign_in_name": "ada", "password": PASSWORD}
    assert browser.post("/api/welcome", body).json() == {"name": "Ada", "role": "admin"}
    assert browser.get("/api/people").status_code == 200
    assert browser.get("/api/sign-in").json()["first"] is False
    again = {**body, "sign_in_name": "eve"}
    assert Browser(app).post("/api/welcome", again).status_code == 404
    assert Browser(app).post("/api/welcome/look", {"token": token}).status_code == 404


def test_a_new_first_link_ends_the_one_before(app: Litestar, engine: Engine) -> None:
    lost, found = first_link(engine), first_link(engine)
    look = Browser(app).post
    assert look("/api/welcome/look", {"token": lost}).status_code == 404
    assert look("/api/welcome/look", {"token": found}).status_code == 200


def test_a_first_link_is_worth_nothing_once_there_is_an_admin(
    app: Litestar, engine: Engine
) -> None:
    token = first_link(engine)
    make_person(engine, role="admin")
    assert Browser(app).post("/api/welcome/look", {"token": token}).status_code == 404


def test_a_link_runs_out(app: Litestar, engine: Engine) -> None:
    token = first_link(engine)
    with session(engine) as opened:
        opened.execute(update(OneTimeLink).values(expires_at=now() - timedelta(seconds=1)))
    assert Browser(app).post("/api/welcome/look", {"token": token}).status_code == 404


def test_only_the_hash_of_a_link_is_kept(engine: Engine) -> None:
    token = first_link(engine)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM one_time_link")).one()
    assert token not in str(row)


def test_a_link_is_not_used_up_by_a_password_that_is_too_short(
    app: Litestar, engine: Engine
) -> None:
    token = first_link(engine)
    body = {"token": token, "name": "Ada", "sign_in_name": "ada", "password": "short"}
    refused = Browser(app).post("/api/welcome", body)
    assert refused.status_code == 422
    assert "15 or more" in refused.json()["detail"]
    assert Browser(app).post("/api/welcome", {**body, "password": PASSWORD}).status_code == 200


@pytest.mark.parametrize(
    "password", ["", "fourteen chars", "x" * 257, "aaaaaaaaaaaaaaaa", "ada@company.example"]
)
def test_a_password_is_refused_for_its_length_or_for_being_guessed_first(password: str) -> None:
    with pytest.raises(InvalidInputError, match="password"):
        check_new(password, "Ada@Company.example")


@pytest.mark.parametrize(
    "password", ["fifteen letters", "ünï çødé pässwörd", "correct horse " * 18]
)
def test_any_long_password_is_taken(password: str) -> None:
    check_new(password, "ada")
    assert verify(hash_of(password), password).right


def test_the_same_signs_typed_otherwise_are_the_same_password() -> None:
    composed, decomposed = "caf\u00e9 au lait le matin", "cafe\u0301 au lait le matin"
    assert verify(hash_of(composed), decomposed).right


def test_a_sign_in_name_is_one_persons(engine: Engine) -> None:
    make_person(engine)
    with pytest.raises(ConflictError, match="taken"):
        make_person(engine, "ADA")


def test_browsers_have_names_that_people_know() -> None:
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    edge = "Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36 Edg/140.0"
    told = [browser_name(agent) for agent in (firefox, edge, "curl/8.5", "", "\x00<b>")]
    assert told == ["Firefox on Linux", "Edge on Windows", "curl", "a browser", "a browser"]


def test_old_sessions_are_gone_after_the_next_sign_in(app: Litestar, engine: Engine) -> None:
    person = make_person(engine)
    Browser(app).sign_in()
    with session(engine) as opened:
        opened.execute(update(SignInSession).values(expires_at=now() - timedelta(days=1)))
    Browser(app).sign_in()
    with session(engine) as opened:
        kept = opened.exec(
            select(SignInSession).where(col(SignInSession.person_id) == person.id)
        ).all()
    assert len(kept) == 1
