"""How long the server takes to acknowledge a vote, with 100,000 votes in the database.

    python -m tests.benchmarks.votes sqlite:////tmp/votes.db
    python -m tests.benchmarks.votes postgresql+psycopg://user@/empty_database

The database must be empty: it is migrated and filled (10,000 conversations, 100,000 turns with
two answers, a vote on each). The application answers in this process, so that what is measured
is the server's share alone. Goal: 95 of 100 votes within 100 ms, lists within 200 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
from sqlalchemy import Engine, insert
from sqlmodel import Session, SQLModel, col, select

from service.database import migrate, open_database, session
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    Person,
    PolicyVersion,
    Turn,
    now,
)
from service.voting_tables import VotePair
from tests.service.web_client import ORIGIN, web_app

VOTE_GOAL_MS, LIST_GOAL_MS = 100.0, 200.0
ANSWER = "Everybody has 28 days of annual leave a year; unused days end on 31 March. " * 4
CHUNK = 1_000


@dataclass(frozen=True)
class Size:
    """How much is in the database."""

    people: int = 200
    conversations: int = 50
    """Of each person."""
    turns: int = 10
    """Of each conversation, each with two answers and a vote."""
    fresh: int = 300
    """Turns of the measured person that wait for a vote."""


def fill(engine: Engine, size: Size) -> None:
    """Write everybody's rows."""
    with session(engine) as opened:
        opened.add(PolicyVersion(id="v0", number=0, state="live"))
        people = [Person(name=f"Person {number}") for number in range(size.people)]
        opened.add_all(people)
    for person in people:
        _fill_person(engine, person.id, size)


def add_waiting(engine: Engine, person_id: str, count: int) -> list[str]:
    """Turns of this person with two answers and no vote."""
    talk = Conversation(person_id=person_id, title="Waiting")
    with session(engine) as opened:
        opened.add(talk)
    turns = [_turn(talk.id, at) for at in range(count)]
    _write(engine, Turn, turns)
    _write(engine, Candidate, [row for turn in turns for row in _candidates(turn.id)])
    _write(engine, VotePair, [_pair(turn, person_id, "waiting") for turn in turns])
    return [turn.id for turn in turns]


def _fill_person(engine: Engine, person_id: str, size: Size) -> None:
    talks = [
        Conversation(person_id=person_id, title=f"Talk {n}") for n in range(size.conversations)
    ]
    turns = [_turn(talk.id, at) for talk in talks for at in range(size.turns)]
    candidates = [_candidates(turn.id) for turn in turns]
    moment = now() - timedelta(days=30)
    votes = [
        Comparison(
            turn_id=turn.id,
            person_id=person_id,
            candidate_a_id=first.id,
            candidate_b_id=second.id,
            choice="ABA"[at % 3],
            created_at=moment + timedelta(minutes=at),
        )
        for at, (turn, (first, second)) in enumerate(zip(turns, candidates, strict=True))
    ]
    _write(engine, Conversation, talks)
    _write(engine, Turn, turns)
    _write(engine, Candidate, [row for pair in candidates for row in pair])
    _write(engine, Comparison, votes)
    _write(engine, VotePair, [_pair(turn, person_id, "done") for turn in turns])


def _turn(conversation_id: str, at: int) -> Turn:
    passage = {"id": "p", "title": "Annual leave", "text": ANSWER}
    return Turn(
        conversation_id=conversation_id,
        position=at,
        question=f"How many days of leave are there in year {at}?",
        prompt={"id": "x", "question": "?", "passages": [passage, passage], "history": []},
        compared=True,
    )


def _candidates(turn_id: str) -> tuple[Candidate, Candidate]:
    def one(side: str) -> Candidate:
        return Candidate(
            turn_id=turn_id,
            side=side,
            version_id="v0",
            text=f"{side}: {ANSWER}",
            token_ids=list(range(20)),
            finish_reason="stop",
            seed=1,
        )

    return one("A"), one("B")


def _pair(turn: Turn, person_id: str, state: str) -> VotePair:
    return VotePair(
        turn_id=turn.id,
        person_id=person_id,
        pool=person_id,
        pairing="ordinary",
        probability=0.2,
        state=state,
        votes=int(state == "done"),
        created_at=turn.created_at - timedelta(days=1),
    )


def _write(engine: Engine, kind: type[SQLModel], rows: list[Any]) -> None:
    with Session(engine) as opened:
        for start in range(0, len(rows), CHUNK):
            # Much faster than model_dump, and the columns are plain values.
            values = [dict(row.__dict__) for row in rows[start : start + CHUNK]]
            for value in values:
                value.pop("_sa_instance_state", None)
            opened.execute(insert(kind), values)
        opened.commit()


async def measure(engine: Engine, fresh: int) -> dict[str, list[float]]:
    """Milliseconds of each request, by what was asked."""
    with tempfile.TemporaryDirectory() as home, web_app(engine, Path(home)) as app:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url=ORIGIN,
            headers={"sec-fetch-site": "same-origin"},
        ) as client:
            await client.get("/api/me")
            with session(engine) as opened:
                newest = col(Person.created_at).desc()
                person_id = opened.exec(select(Person.id).order_by(newest)).first()
            assert person_id is not None
            _fill_person(engine, person_id, Size())
            turns = add_waiting(engine, person_id, fresh)
            return {
                "vote": await _timed(_votes(client, turns[: fresh // 2])),
                "next pair": await _timed(_call(client, "POST", "/api/vote-queue", 50)),
                "figures": await _timed(_call(client, "GET", "/api/vote-queue/figures", 50)),
                "my feedback": await _timed(_call(client, "GET", "/api/my/feedback", 50)),
                "effects": await _timed(_call(client, "GET", "/api/my/effects", 50)),
            }


def _votes(client: httpx.AsyncClient, turns: list[str]) -> Iterator[Callable[[], Awaitable[Any]]]:
    body = {"choice": "A", "strength": "much", "decision_ms": 4000, "interface": "chat/1"}
    for turn in turns:
        yield lambda turn=turn: client.post(f"/api/turns/{turn}/comparison", json=body)


def _call(
    client: httpx.AsyncClient, method: str, path: str, times: int
) -> Iterator[Callable[[], Awaitable[Any]]]:
    for _ in range(times):
        yield lambda: client.request(method, path, json={} if method == "POST" else None)


async def _timed(calls: Iterator[Callable[[], Awaitable[Any]]]) -> list[float]:
    taken = []
    for call in calls:
        began = perf_counter()
        response = await call()
        taken.append(1000 * (perf_counter() - began))
        response.raise_for_status()
    return taken


def p95(values: list[float]) -> float:
    """The value that 95 of 100 do not exceed."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def report(taken: dict[str, list[float]]) -> bool:
    """Print what was measured; whether every goal was met."""
    met = True
    for name, values in taken.items():
        goal = VOTE_GOAL_MS if name == "vote" else LIST_GOAL_MS
        met &= p95(values) <= goal
        row = {
            "asked": name,
            "times": len(values),
            "p50_ms": round(statistics.median(values), 1),
            "p95_ms": round(p95(values), 1),
            "goal_ms": goal,
        }
        print(json.dumps(row))
    return met


def main(arguments: list[str] | None = None) -> int:
    """Fill, measure and print; 0 where every goal was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", help="SQLAlchemy URL of an empty database")
    parser.add_argument("--people", type=int, default=Size().people)
    options = parser.parse_args(arguments)
    engine = open_database(options.database)
    migrate(engine)
    size = Size(people=options.people)
    fill(engine, size)
    taken = asyncio.run(measure(engine, size.fresh))
    engine.dispose()
    return 0 if report(taken) else 1


if __name__ == "__main__":
    sys.exit(main())
