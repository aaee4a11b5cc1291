"""heed replay: a stored answer made again, token for token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.policies import opened_database
from service.commands.terminal import FAILED, say, settings_for_command, warn

if TYPE_CHECKING:
    from service.replay import Replay


def replay(
    answer: Annotated[
        str, typer.Argument(metavar="ANSWER", help="An answer's id, or the API's chatcmpl-... id.")
    ],
) -> None:
    """Make a stored answer again from its exact version, seed, settings and prompt, and say
    whether every token is the same."""
    from service.replay import replay as make_again

    settings = settings_for_command()
    with opened_database(settings) as engine:
        replays = make_again(engine, settings, answer)
    for one in replays:
        at = one.differs_at
        if at is None:
            say(_matched(one))
        else:
            warn(_differs(one, at))
    if not all(one.matched for one in replays):
        raise typer.Exit(FAILED)


def _matched(one: Replay) -> str:
    what = f"the {len(one.made)} tokens before it was ended" if one.cut_short else "token for token"
    return f"answer {one.answer_id} (version {one.version_id}): the same, {what}"


def _differs(one: Replay, at: int) -> str:
    return (
        f"answer {one.answer_id} (version {one.version_id}) differs at token {at + 1}: "
        f"stored {_token(one.stored, at)}, now {_token(one.made, at)}"
        + (f" ({one.pieces[at]!r})" if at < len(one.pieces) else "")
    )


def _token(tokens: tuple[int, ...], at: int) -> str:
    return str(tokens[at]) if at < len(tokens) else "the end"
