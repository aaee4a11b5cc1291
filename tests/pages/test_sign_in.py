"""From the first link to the last sign-out: people make accounts, sign in, and are managed."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import Engine, delete

from service import one_time_links
from service.account_tables import Account
from service.database import session
from service.roles import Role
from tests.journeys.server import Served
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot
from tests.service.accounts import PASSWORD, make_person

REFUSED = ("401", "404", "409", "422")

looks = pytest.mark.parametrize(
    ("width", "theme"),
    [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")],
)

Enter = Callable[..., Page]


@pytest.fixture(scope="module")
def site_settings() -> dict[str, Any]:
    return {"visitors": "none"}


@pytest.fixture
def enter(browse: Browse, page_database: Engine, site: Served) -> Enter:
    """A page of a new person who has signed in, gone on to `path`."""

    def entered(path: str, role: Role = "employee", **more: Any) -> Page:
        name = f"person-{secrets.token_hex(4)}"
        make_person(page_database, name, role)
        page = browse(f"/sign-in?next={path}", allowed=REFUSED, **more)
        page.get_by_label("Sign-in name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(site.url + path)
        return page

    return entered


@looks
def test_the_first_account_is_made_from_the_link(
    browse: Browse, page_database: Engine, width: Width, theme: Theme
) -> None:
    with session(page_database) as opened:
        opened.execute(delete(Account))
        token = one_time_links.first_account(opened)
    page = browse(f"/welcome#{token}", width, theme, allowed=REFUSED)
    expect(page.get_by_role("heading", name="Make the first account")).to_be_visible()
    assert token not in page.url
    axe(page)
    fits(page)
    shot(page, f"welcome-{width}-{theme}")
    name = f"admin-{secrets.token_hex(4)}"
    page.get_by_label("Your name").fill("Grace")
    page.get_by_label("Sign-in name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_role("heading", name="Chat", exact=True)).to_be_visible()
    assert page.evaluate("fetch('/api/me').then((told) => told.json())")["name"] == "Grace"
    again = browse(f"/welcome#{token}", width, theme, allowed=REFUSED)
    expect(again.get_by_role("alert")).to_contain_text("was used already")
    axe(again)


@looks
def test_one_signs_in_and_out_by_keyboard(
    browse: Browse, page_database: Engine, site: Served, width: Width, theme: Theme
) -> None:
    name = f"ada-{secrets.token_hex(4)}"
    make_person(page_database, name)
    page = browse("/account", width, theme, allowed=REFUSED)
    page.wait_for_url("**/sign-in?next=%2Faccount")
    axe(page)
    fits(page)
    shot(page, f"sign-in-{width}-{theme}")
    page.get_by_label("Sign-in name").focus()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type("a wrong password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    axe(page)
    page.get_by_label("Password").focus()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(site.url + "/account")
    expect(page.get_by_role("heading", name="Your account")).to_be_visible()
    page.get_by_role("button", name="Sign out everywhere").click()
    page.wait_for_url("**/sign-in*")


def test_an_address_from_elsewhere_is_not_gone_on_to(
    browse: Browse, page_database: Engine, site: Served
) -> None:
    name = f"ada-{secrets.token_hex(4)}"
    make_person(page_database, name)
    page = browse("/sign-in?next=//elsewhere.example/x", allowed=REFUSED)
    page.get_by_label("Sign-in name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(site.url + "/")


@looks
def test_a_key_is_made_shown_once_and_revoked(enter: Enter, width: Width, theme: Theme) -> None:
    page = enter("/account", width=width, theme=theme)
    expect(page.get_by_role("heading", name="Where you are signed in")).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"account-{width}-{theme}")
    page.get_by_role("button", name="Make a key").click()
    axe(page)
    page.get_by_label("What is it for?").fill("nightly report")
    page.get_by_role("button", name="Make the key").click()
    key = page.locator("code.key").inner_text()
    assert key.startswith("heed_")
    axe(page)
    page.get_by_role("button", name="I have kept it").click()
    assert key not in page.content()
    page.get_by_role("button", name="Revoke nightly report").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(page.get_by_text("You have no keys.")).to_be_visible()


def test_a_password_is_changed_and_a_wrong_one_told(enter: Enter) -> None:
    page = enter("/account")
    page.get_by_label("Password now").fill("not this one")
    page.get_by_label("New password").fill("another quiet river")
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_role("alert")).to_contain_text("not your password")
    page.get_by_label("Password now").fill(PASSWORD)
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_text("Your password was changed")).to_be_visible()


def test_one_can_erase_oneself(enter: Enter) -> None:
    page = enter("/account")
    page.get_by_role("button", name="Erase my account").click()
    expect(page.get_by_text("Your votes stay without your name")).to_be_visible()
    axe(page)
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name="Erase everything").click()
    page.wait_for_url("**/sign-in*")


@looks
def test_an_admin_invites_changes_and_sees_who_did_what(
    enter: Enter, page_database: Engine, width: Width, theme: Theme
) -> None:
    page = enter("/people", "admin", width=width, theme=theme)
    other = f"zoe-{secrets.token_hex(4)}"
    make_person(page_database, other)
    page.get_by_label("Find").fill(other)
    change = page.get_by_role("button", name=f"Change {other.title()}")
    expect(change).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"people-{width}-{theme}")
    change.click()
    axe(page)
    page.get_by_label("Role").select_option("reviewer")
    expect(page.get_by_text("is reviewer now")).to_be_visible()
    page.get_by_label("Groups").fill("Finance, board,")
    page.get_by_role("button", name="Save groups").click()
    expect(page.get_by_text("documents of Finance, board from the next")).to_be_visible()
    expect(page.get_by_role("cell", name="board, finance")).to_be_attached()
    page.get_by_role("button", name="New password").click()
    expect(page.locator("code.key")).to_contain_text("/welcome#")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Invite").click()
    page.get_by_label("Their name").fill("Alan")
    page.get_by_role("button", name="Make the link").click()
    expect(page.locator("code.key")).to_contain_text("/welcome#")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("tab", name="Invitations").click()
    expect(page.get_by_role("rowheader", name="Alan").first).to_be_visible()
    axe(page)
    page.get_by_role("tab", name="Keys").click()
    axe(page)
    page.get_by_role("tab", name="Who did what").click()
    expect(page.get_by_text("person: role changed").first).to_be_visible()
    axe(page)
    fits(page)


def test_the_link_for_somebody_on_a_later_page_can_be_read(
    enter: Enter, page_database: Engine, site: Served
) -> None:
    other = f"yan-{secrets.token_hex(4)}"
    make_person(page_database, other)

    def behind_an_empty_page(route: Route) -> None:
        if "after=" in route.request.url:
            route.continue_(url=f"{site.url}/api/people?search={other}")
        else:
            route.fulfill(json={"people": [], "next": "x"})

    page = enter("/account", "admin")
    page.route("**/api/people*", behind_an_empty_page)
    page.goto(f"{site.url}/people")
    page.get_by_role("button", name="Show more").click()
    page.get_by_role("button", name=f"Change {other.title()}").click()
    page.get_by_label("Role").select_option("reviewer")
    expect(page.get_by_text("is reviewer now")).to_be_visible()
    expect(page.get_by_label("Role")).to_have_value("reviewer")
    page.get_by_role("button", name="New password").click()
    expect(page.locator("code.key")).to_contain_text("/welcome#")
    page.wait_for_load_state("networkidle")
    expect(page.locator("code.key")).to_be_visible()
