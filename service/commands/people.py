"""heed people: list, invite, roles, disable, reset, for whoever has the server's command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.terminal import NOTHING_TO_DO, say, settings_for_command, table, user, warn
from service.roles import Role
from service.settings import Settings

if TYPE_CHECKING:
    from sqlmodel import Session

app = typer.Typer(help="List people, invite them, change roles, disable, reset passwords.")

Who = Annotated[
    str, typer.Argument(metavar="PERSON", help="Sign-in name, name, or beginning of the id.")
]


@app.command("list")
def list_people(
    search: Annotated[str, typer.Option(help="Only those whose names hold this.")] = "",
) -> None:
    """List the people with an account."""
    from service.accounts import Member, members

    with _opened() as (_settings, opened):
        rows: list[Member] = []
        last = None
        while found := members(opened, last, search):
            rows += found
            last = (found[-1].person.name, found[-1].person.id)
    if not rows:
        warn("nobody has an account yet; heed people invite --role admin makes the first link")
        raise typer.Exit(NOTHING_TO_DO)
    shown = [
        (
            person.id[:8],
            person.name,
            account.sign_in_name or account.email,
            person.role,
            "disabled" if account.disabled_at else "",
        )
        for person, account in rows
    ]
    table("People", ("id", "name", "signs in as", "role", ""), shown)


@app.command()
def invite(
    role: Annotated[Role, typer.Option(help="What they may do.")] = "employee",
    name: Annotated[str | None, typer.Option(help="Whom it is for.")] = None,
) -> None:
    """Make a one-time link with which somebody makes their account."""
    from service.one_time_links import invite as make

    with _opened() as (settings, opened):
        token = make(opened, role, name, user())
    _hand_out(settings, token, "Hand this link to them; it works once, for 7 days:")


@app.command("role")
def set_role(
    person: Who, role: Annotated[Role, typer.Argument(help="What they may do from now on.")]
) -> None:
    """Give a person another role."""
    from service import accounts

    with _opened() as (_settings, opened):
        member = accounts.find_by_name(opened, person)
        accounts.set_role(opened, member, role, user())
    say(f"{member.person.name} has the role {role}")


@app.command()
def groups(
    person: Annotated[
        str | None, typer.Argument(metavar="PERSON", help="Whose groups; all groups without one.")
    ] = None,
    add: Annotated[list[str] | None, typer.Option(help="A group to put them in.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A group to take them out of.")] = None,
) -> None:
    """Show groups, or change a person's: they read the documents of their groups."""
    from service import accounts
    from service import groups as known

    with _opened() as (_settings, opened):
        if person is None:
            table("Groups", ("name", "people"), known.all_groups(opened))
            return
        member = accounts.find_by_name(opened, person)
        held = set(known.groups_of(opened, [member.person.id])[member.person.id])
        out = {known.group_name(name) for name in remove or ()}
        now_in = known.set_groups(opened, member.person, (held | set(add or ())) - out, user())
    say(f"{member.person.name} is in {', '.join(now_in) or 'no group'}")


@app.command()
def disable(
    person: Who,
    undo: Annotated[bool, typer.Option("--undo", help="Let them in again.")] = False,
) -> None:
    """Keep a person out: sessions end, keys stop; what they said stays theirs."""
    from service import accounts

    with _opened() as (_settings, opened):
        member = accounts.find_by_name(opened, person)
        (accounts.enable if undo else accounts.disable)(opened, member, user())
    say(f"{member.person.name} {'may sign in again' if undo else 'may not sign in any more'}")


@app.command()
def reset(person: Who) -> None:
    """Make a one-time link with which a person takes a new password."""
    from service import accounts, one_time_links

    with _opened() as (settings, opened):
        member = accounts.find_by_name(opened, person)
        token = one_time_links.reset_password(opened, member, user())
    shown = f"Hand this link to {member.person.name}; it works once, for 24 hours:"
    _hand_out(settings, token, shown)


def _hand_out(settings: Settings, token: str, what: str) -> None:
    from service.one_time_links import address

    say(f"{what}\n{address(settings, token)}")
    if settings.port == 0 and settings.public_url is None:
        warn(
            "port is 0, so the server takes another at each start: write the one that heed serve "
            "tells instead of :0 in the link, or set port or public_url"
        )


@contextmanager
def _opened() -> Iterator[tuple[Settings, Session]]:
    from service.commands.policies import opened_database
    from service.database import session

    settings = settings_for_command()
    with opened_database(settings) as engine, session(engine) as opened:
        yield settings, opened
