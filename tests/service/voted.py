"""Votes between policy versions, written straight into the tables, for tests that count them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Engine, insert
from sqlmodel import Session, SQLModel

from service.database import session
from service.tables import (
    Alias,
    Candidate,
    Comparison,
    Conversation,
    Person,
    PolicyVersion,
    Turn,
)


def make_versions(engine: Engine, count: int, live: int = 0) -> None:
    """Versions 0 to count - 1, by the ids v0, v1 and so on; one of them is live."""
    with session(engine) as opened:
        for number in range(count):
            state = "live" if number == live else "retired"
            opened.add(PolicyVersion(id=f"v{number}", number=number, state=state))
        opened.flush()
        opened.add(Alias(name="live", version_id=f"v{live}"))
        add_voter(opened)


def add_voter(opened: Session) -> None:
    """The one whose conversation it is, and who votes."""
    opened.add(Person(id="ada", name="Ada"))
    opened.flush()
    opened.add(Conversation(id="c", person_id="ada", title="Leave"))
    opened.flush()


def vote(
    engine: Engine, votes: Iterable[tuple[int, int, str]], prefix: str = "", **more: Any
) -> None:
    """Store a turn with its vote for each (first version, second version, choice)."""
    with session(engine) as opened:
        write_votes(opened, list(votes), prefix, **more)


def write_votes(
    opened: Session,
    votes: list[tuple[int, int, str]],
    prefix: str = "",
    *,
    versions: Sequence[str] | None = None,
    **more: Any,
) -> None:
    """Turns, answers and votes in one statement each; `prefix` keeps ids of two calls apart, and
    `versions` are the ids of the versions that votes name by number.

    Votes get version and length as they are kept with them, unless `more` says otherwise.
    """
    turn = Turn(conversation_id="c", position=0, question="How many?").model_dump()
    answer = Candidate(
        turn_id="", version_id="", text="", finish_reason="stop", seed=1
    ).model_dump()
    comparison = Comparison(
        turn_id="",
        person_id="ada",
        candidate_a_id="",
        candidate_b_id="",
        choice="",
        length_a=20,
        length_b=10,
    ).model_dump()
    rows: dict[type[SQLModel], list[dict[str, Any]]] = {Turn: [], Candidate: [], Comparison: []}
    for at, (a, b, choice) in enumerate(votes):
        first, second = (versions[side] if versions else f"v{side}" for side in (a, b))
        number = f"{prefix}t{at}"
        prompt = {"id": number, "question": "How many?"}
        rows[Turn].append(turn | {"id": number, "position": at, "prompt": prompt})
        for side, version, text in (("A", first, "x" * 20), ("B", second, "x" * 10)):
            shown = {"id": number + side, "turn_id": number, "side": side, "text": text}
            rows[Candidate].append(answer | shown | {"version_id": version})
        sides = {"candidate_a_id": f"{number}A", "candidate_b_id": f"{number}B"}
        shown_versions = {"version_a_id": first, "version_b_id": second}
        kept = {"id": f"{number}c", "turn_id": number, "choice": choice}
        rows[Comparison].append(comparison | kept | sides | shown_versions | more)
    for kind, values in rows.items():
        opened.execute(insert(kind), values)
