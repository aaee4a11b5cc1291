"""People of every role with everything that people can own, for tests of who may do what."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from rlhf_engine.records import Prompt, to_json
from service import api_keys, sign_in_sessions
from service.account_tables import Account
from service.database import session
from service.review_tables import Notice
from service.roles import SCOPES, Role, may
from service.settings import Settings
from service.tables import (
    Alias,
    Candidate,
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
    new_id,
    now,
)
from service.voting_tables import VoteOffer

BASE = "0000000000000000"

OF_A_CHAT = ("conversation_id", "turn_id", "candidate_id")
"""What goes with a deleted chat. Votes stay their giver's, to be seen and withdrawn."""


@dataclass(frozen=True)
class Somebody:
    """A signed-in person; `keys` holds one key of each scope, and "all"."""

    person: Person
    token: str
    keys: Mapping[str, str]
    things: Mapping[str, str]
    """The id of something they own, by the name of the path's parameter."""
    deleted: Mapping[str, str]
    """The same of what can be deleted, after it was."""


def make_somebody(engine: Engine, settings: Settings, role: Role) -> Somebody:
    """A new person of this role, with one of everything."""
    with session(engine) as opened:
        if opened.get(PolicyVersion, BASE) is None:
            opened.add(PolicyVersion(id=BASE, number=0, state="live"))
            opened.flush()
            opened.add(Alias(name="live", version_id=BASE))
        person = Person(name=f"Somebody {secrets.token_hex(4)}", role=role)
        opened.add(person)
        opened.flush()
        opened.add(Account(person_id=person.id, sign_in_name=person.id))
        row, token = sign_in_sessions.begin(opened, person, "password", "a test", settings)
        ended, _token = sign_in_sessions.begin(opened, person, "password", "a test", settings)
        allowed = [scope for scope, least in SCOPES.items() if may(role, least)]
        made = {scope: api_keys.make(opened, person, scope, [scope], None) for scope in allowed}
        made["all"] = api_keys.make(opened, person, "all", allowed, None)
        revoked = api_keys.make(opened, person, "revoked", ["chat"], None)
        api_keys.revoke(opened, person, revoked.row.id)
        sign_in_sessions.end(opened, person.id, ended.id)
        keys = {name: key.token for name, key in made.items()}
        things = {**_talk(opened, person, deleted=False), "session_id": row.id}
        things["key_id"] = made["chat"].row.id
        gone = _talk(opened, person, deleted=True)
        deleted = {name: gone[name] for name in OF_A_CHAT}
        deleted |= {"session_id": ended.id, "key_id": revoked.row.id}
    return Somebody(person, token, keys, things, deleted)


def _talk(opened: Any, person: Person, *, deleted: bool) -> dict[str, str]:
    """A conversation with two answers, everything one may say of them, and a notice of it."""
    talk = Conversation(person_id=person.id, title="Leave?", deleted_at=now() if deleted else None)
    opened.add(talk)
    opened.flush()
    number = new_id()
    prompt = to_json(Prompt(number, "Leave?", ()))
    turn = Turn(
        id=number,
        conversation_id=talk.id,
        position=0,
        question="Leave?",
        prompt=prompt,
        compared=True,
    )
    opened.add(turn)
    opened.flush()
    a, b = (
        Candidate(
            turn_id=number, side=side, version_id=BASE, text=side, finish_reason="stop", seed=1
        )
        for side in "AB"
    )
    opened.add_all([a, b])
    opened.flush()
    vote = Comparison(
        turn_id=number, person_id=person.id, candidate_a_id=a.id, candidate_b_id=b.id, choice="A"
    )
    thumb = Thumb(candidate_id=a.id, person_id=person.id, value=1)
    correction = GoldAnswer(
        external_id=new_id(),
        question="Leave?",
        answer="25",
        origin="correction",
        state="proposed",
        person_id=person.id,
        candidate_id=b.id,
        content_hash="1",
    )
    offer = VoteOffer(
        person_id=person.id, turn_id=number, first_id=a.id, second_id=b.id, probability=1.0
    )
    notice = Notice(person_id=person.id, about=f"fixed:{number}", text="It was fixed.")
    opened.add_all([vote, thumb, correction, offer, notice])
    opened.flush()
    return {
        "conversation_id": talk.id,
        "turn_id": number,
        "candidate_id": a.id,
        "vote_id": vote.id,
        "thumb_id": thumb.id,
        "correction_id": correction.id,
        "offer_id": offer.id,
        "notice_id": notice.id,
    }


def body_for(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    """The smallest value that a schema of the OpenAPI document allows."""
    if "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return body_for(found, document)
    for choice in ("oneOf", "anyOf", "allOf"):
        if choice in schema:
            return body_for(schema[choice][0], document)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    return _value(schema, document)


def _value(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: body_for(fields[name], document) for name in schema.get("required", ())}
    if kind == "array":
        return [body_for(schema["items"], document)] * schema.get("minItems", 1)
    simple: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "null": None}
    return simple.get(kind, "text")
