"""Signing in at a company's OpenID provider: a real one on loopback, asked over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.deprecate import AuthlibDeprecationWarning
from litestar import Litestar
from pydantic import ValidationError
from sqlalchemy import Engine
from sqlmodel import select

from service.account_tables import Account, ProviderVisit
from service.database import session
from service.errors import ProviderError
from service.settings import Settings
from service.sign_in_company import is_own_path, role_of
from service.sign_in_provider import Provider
from service.sign_in_settings import OidcSettings
from tests.service.accounts import Browser, make_person
from tests.service.web_client import web_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    import oidc_provider_mock
    from oidc_provider_mock import User

# The provider's own, of the library that it is made with.
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")

USERS = (
    User(
        sub="ada",
        claims={
            "name": "Ada Byron",
            "email": "ada@company.example",
            "email_verified": True,
            "groups": ["staff", "heed-operators"],
        },
    ),
    User(sub="eve", claims={"email": "eve@elsewhere.example", "email_verified": True}),
    User(sub="mal", claims={"email": "mal@company.example", "email_verified": False}),
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with oidc_provider_mock.run_server_in_thread(user_claims=USERS, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


def oidc(issuer: str, **over: Any) -> dict[str, Any]:
    return {"issuer": issuer, "client_id": "heed", "client_secret": "s3cret-of-heed", **over}


@pytest.fixture
def app(engine: Engine, tmp_path: Path, issuer: str) -> Iterator[Litestar]:
    settings = OidcSettings(**oidc(issuer, role_claim="groups", roles=ROLES))
    with web_app(engine, tmp_path, visitors="none", oidc=settings) as running:
        yield running


ROLES: Any = {"heed-operators": "operator", "heed-admins": "admin"}


def depart(browser: Browser, path: str = "/vote") -> str:
    """Leave for the provider; the address it is asked at."""
    response = browser.get("/api/sign-in/provider", params={"next_path": path})
    assert response.status_code == 303, response.text
    return response.headers["location"]


def vouch(url: str, subject: str = "ada") -> str:
    """Sign in at the provider; the address that it sends the browser back to."""
    return httpx.post(url, data={"sub": subject}).headers["location"]


def arrive(browser: Browser, back: str) -> httpx.Response:
    parts = urlsplit(back)
    return browser.get(f"{parts.path}?{parts.query}", headers={"sec-fetch-site": "cross-site"})


def sign_in(browser: Browser, subject: str = "ada") -> str:
    """All of it; where the browser lands."""
    return arrive(browser, vouch(depart(browser), subject)).headers["location"]


def test_a_person_comes_back_signed_in_with_the_role_of_their_group(
    app: Litestar, engine: Engine
) -> None:
    browser = Browser(app)
    assert browser.get("/api/sign-in").json()["provider"] == "Sign in with your company account"
    assert sign_in(browser) == "/vote"
    me = browser.get("/api/me").json()
    assert (me["name"], me["role"], me["method"]) == ("Ada Byron", "operator", "provider")
    again = Browser(app)
    sign_in(again)
    assert again.get("/api/me").json()["id"] == me["id"]
    with session(engine) as opened:
        account = opened.exec(select(Account)).one()
        assert opened.exec(select(ProviderVisit)).all() == []
    assert (account.subject, account.email) == ("ada", "ada@company.example")
    assert account.password_hash is None


def test_the_provider_is_asked_with_state_nonce_and_a_hashed_verifier(
    app: Litestar, engine: Engine
) -> None:
    asked = parse_qs(urlsplit(depart(Browser(app))).query)
    with session(engine) as opened:
        kept = opened.exec(select(ProviderVisit)).one()
    digest = hashlib.sha256(kept.verifier.encode()).digest()
    assert asked["code_challenge"] == [base64.urlsafe_b64encode(digest).decode().rstrip("=")]
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["nonce"] == [kept.nonce]
    assert asked["scope"] == ["openid profile email"]
    assert kept.state_hash == hashlib.sha256(asked["state"][0].encode()).hexdigest()


def test_who_comes_back_in_another_browser_or_twice_is_not_let_in(app: Litestar) -> None:
    """Nobody can sign somebody else's browser in as themselves."""
    attacker, victim = Browser(app), Browser(app)
    back = vouch(depart(attacker))
    assert arrive(victim, back).headers["location"] == "/sign-in?problem=expired"
    depart(victim)
    assert arrive(victim, back).headers["location"] == "/sign-in?problem=expired"
    assert victim.get("/api/me").status_code == 401
    assert arrive(attacker, back).headers["location"] == "/vote"
    assert arrive(attacker, back).headers["location"] == "/sign-in?problem=expired"


def test_a_code_that_the_provider_does_not_know_is_refused(app: Litestar) -> None:
    browser = Browser(app)
    state = parse_qs(urlsplit(depart(browser)).query)["state"][0]
    answer = browser.get(
        "/api/sign-in/provider/callback", params={"code": "forged", "state": state}
    )
    assert answer.headers["location"] == "/sign-in?problem=provider"
    assert browser.get("/api/me").status_code == 401


def test_an_id_token_for_another_sign_in_is_refused(issuer: str) -> None:
    provider = Provider(OidcSettings(**oidc(issuer)))
    callback = "http://127.0.0.1/api/sign-in/provider/callback"
    departure = provider.depart(callback)
    code = parse_qs(urlsplit(vouch(departure.url)).query)["code"][0]
    with pytest.raises(ProviderError, match="refused") as refused:
        provider.arrive(code, callback, "another nonce", departure.verifier)
    assert "s3cret" not in str(refused.value)


def test_a_refusal_at_the_provider_is_told_kindly(app: Litestar) -> None:
    browser = Browser(app)
    state = parse_qs(urlsplit(depart(browser)).query)["state"][0]
    answer = browser.get(
        "/api/sign-in/provider/callback", params={"error": "access_denied", "state": state}
    )
    assert answer.headers["location"] == "/sign-in?problem=refused"


@pytest.mark.parametrize(("subject", "let_in"), [("ada", True), ("eve", False), ("mal", False)])
def test_only_checked_addresses_of_the_domain_are_let_in(
    engine: Engine, tmp_path: Path, issuer: str, subject: str, let_in: bool
) -> None:
    settings = OidcSettings(**oidc(issuer, email_domains=("Company.example",)))
    with web_app(engine, tmp_path, visitors="none", oidc=settings) as app:
        browser = Browser(app)
        assert sign_in(browser, subject) == ("/vote" if let_in else "/sign-in?problem=refused")
        assert (browser.get("/api/me").status_code == 200) is let_in


def test_an_address_of_a_local_account_does_not_open_it(app: Litestar, engine: Engine) -> None:
    local = make_person(engine, "ada@company.example", "admin")
    browser = Browser(app)
    sign_in(browser)
    assert browser.get("/api/me").json()["id"] != local.id


def test_a_disabled_person_stays_out(app: Litestar, engine: Engine) -> None:
    make_person(engine, "root", "admin")
    admin, browser = Browser(app), Browser(app)
    admin.sign_in("root")
    sign_in(browser)
    number = browser.get("/api/me").json()["id"]
    admin.patch(f"/api/people/{number}", {"disabled": True})
    assert sign_in(browser) == "/sign-in?problem=refused"


def test_passwords_can_be_switched_off(engine: Engine, tmp_path: Path, issuer: str) -> None:
    make_person(engine)
    over: dict[str, Any] = {"oidc": oidc(issuer), "sign_in": {"passwords": False}}
    with web_app(engine, tmp_path, visitors="none", **over) as app:
        assert Browser(app).sign_in().status_code == 404
        assert Browser(app).get("/api/sign-in").json()["passwords"] is False


@pytest.mark.parametrize(
    ("groups", "role"),
    [(["heed-admins", "heed-operators"], "admin"), ("heed-operators", "operator"), ([], None)],
)
def test_the_highest_group_counts(groups: Any, role: str | None) -> None:
    settings = OidcSettings(role_claim="realm_access.roles", roles=ROLES, default_role=None)
    assert role_of(settings, {"realm_access": {"roles": groups}}) == role


@pytest.mark.parametrize("claims", [{}, {"groups": 7}, {"groups": [["x"]]}, {"groups": {"a": 1}}])
def test_strange_groups_give_the_default(claims: Any) -> None:
    assert role_of(OidcSettings(role_claim="groups", roles=ROLES), claims) == "employee"


@pytest.mark.parametrize(
    "issuer",
    ["http://sso.company.example", "ftp://x", "https://a:b@sso.example", "https://sso/?a=1", "sso"],
)
def test_an_issuer_must_be_https_or_this_machine(issuer: str) -> None:
    with pytest.raises(ValidationError, match="https"):
        OidcSettings(issuer=issuer, client_id="heed")


def test_a_provider_that_calls_itself_otherwise_is_refused(issuer: str) -> None:
    other = issuer.replace("localhost", "127.0.0.1")
    with pytest.raises(ProviderError, match=r"must be equal|cannot be reached"):
        Provider(OidcSettings(**oidc(f"{other}/"))).depart("http://127.0.0.1/callback")


def test_a_provider_that_fails_in_the_middle_is_told_kindly(
    engine: Engine, tmp_path: Path, issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token endpoint answers with an error of the server."""
    settings = OidcSettings(**oidc(issuer))
    with web_app(engine, tmp_path, visitors="none", oidc=settings) as app:
        browser = Browser(app)
        back = vouch(depart(browser))
        about = app.state.parts.provider._discovered()
        monkeypatch.setitem(about, "token_endpoint", f"{issuer}/oauth2/authorize")
        assert arrive(browser, back).headers["location"] == "/sign-in?problem=provider"


def test_a_provider_that_is_away_is_told_kindly(engine: Engine, tmp_path: Path) -> None:
    settings = OidcSettings(**oidc("http://localhost:9"))
    with web_app(engine, tmp_path, visitors="none", oidc=settings) as app:
        answer = Browser(app).get("/api/sign-in/provider")
        assert answer.headers["location"] == "/sign-in?problem=provider"


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/vote", True),
        ("/runs/1?x=2", True),
        ("//evil.example", False),
        ("/\\evil.example", False),
        ("https://evil.example", False),
        ("", False),
        ("/a\nb", False),
    ],
)
def test_one_comes_back_to_this_page_only(path: str, own: bool) -> None:
    assert is_own_path(path) is own


def test_the_secret_stands_in_no_error_and_may_stand_in_a_file(tmp_path: Path) -> None:
    wrong = {"issuer": "https://sso.example", "client_secret": "s3cret", "scopes": ["email"]}
    with pytest.raises(ValidationError) as error:
        Settings(oidc=wrong)  # type: ignore[arg-type]
    from service.settings import _explain

    assert "s3cret" not in _explain(error.value)
    assert "client_id" in _explain(error.value) or "openid" in _explain(error.value)
    kept = tmp_path / "secret"
    kept.write_text("from-a-file\n")
    settings = OidcSettings(issuer="https://a.example", client_id="h", client_secret_file=kept)
    assert settings.secret() == "from-a-file"
    assert "from-a-file" not in json.dumps(settings.model_dump(mode="json"))
