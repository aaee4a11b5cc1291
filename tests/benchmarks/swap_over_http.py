"""Swaps under load at the real server: streams and promotions come over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from pathlib import Path

import httpx
from sqlalchemy import Engine

from service.database import open_database, session
from service.settings import Settings
from service.tables import Candidate, Promotion, Turn
from tests.benchmarks.serving_client import Asker, Heard, new_askers
from tests.benchmarks.serving_goals import Held, note, question
from tests.benchmarks.serving_process import Server, served
from tests.benchmarks.swap_in_process import PAUSE_S, QUESTIONS, VERSIONS, new_versions
from tests.benchmarks.swap_records import Answered, AnswerFile, Outcome, Swap

SWAP_S = 120.0
"""A promotion that takes longer has failed."""


def run(settings: Settings, base: Path, swaps: int, streams: int, file: AnswerFile) -> Outcome:
    """So many swaps under a load of so many streams."""
    outcome = Outcome()
    with served(settings) as server:
        database = open_database(settings.database)
        versions = new_versions(base, settings, database)
        heard = asyncio.run(_under_load(server, database, versions, swaps, streams, outcome))
    outcome.swaps = swaps_of(settings.home / "server.log")
    _collect(database, heard, file, outcome)
    database.dispose()
    return outcome


async def _under_load(
    server: Server,
    database: Engine,
    versions: list[str],
    swaps: int,
    streams: int,
    outcome: Outcome,
) -> list[Heard]:
    askers = await new_askers(server.url, streams)
    stop, heard = asyncio.Event(), list[Heard]()
    load = [asyncio.create_task(_stream(asker, at, stop, heard)) for at, asker in enumerate(askers)]
    await asyncio.sleep(1.0)
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0, trust_env=False) as operator:
        operator.headers["sec-fetch-site"] = "same-origin"
        (await operator.get("/api/me")).raise_for_status()
        for at in range(swaps):
            error = await _swap(operator, database, versions[at % VERSIONS])
            outcome.refused += [error] if error else []
            await asyncio.sleep(PAUSE_S)
            if at + 1 == max(1, swaps // 10):
                outcome.early = Held.by(server.pid)
            if (at + 1) % 20 == 0:
                note(f"{at + 1} of {swaps} swaps, {len(heard)} answers")
        outcome.late = Held.by(server.pid)
    stop.set()
    await asyncio.gather(*load)
    outcome.asked = len(heard)
    return heard


async def _stream(asker: Asker, at: int, stop: asyncio.Event, heard: list[Heard]) -> None:
    while not stop.is_set():
        heard.append(await asker.ask(question((at + len(heard)) % QUESTIONS)))
        if heard[-1].status != 200:
            # What is refused is counted; asking again at once would only be refused again.
            await asyncio.sleep(0.2)


async def _swap(operator: httpx.AsyncClient, database: Engine, version: str) -> str:
    """What went wrong; nothing where the version went live."""
    asked = await operator.post(f"/api/policies/{version}/promote", json={"evidence": "under load"})
    if asked.status_code != 202:
        return asked.text
    until = time.monotonic() + SWAP_S
    while time.monotonic() < until:
        row = await asyncio.to_thread(_promotion, database, asked.json()["id"])
        if row.state != "requested":
            return "" if row.state == "done" else str(row.error)
        await asyncio.sleep(0.02)
    return f"not carried out within {SWAP_S:.0f} s"


def _promotion(database: Engine, promotion_id: str) -> Promotion:
    with session(database) as opened:
        return opened.get_one(Promotion, promotion_id)


def swaps_of(log: Path) -> list[Swap]:
    """The server's own account of its swaps, each up to the unloading of what nobody needs any
    more, in seconds of this process's monotonic clock."""
    ahead = time.time() - time.monotonic()
    found: list[Swap] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") not in ("swap_began", "swapped", "version_unloaded"):
            continue
        moment = datetime.fromisoformat(entry["timestamp"]).timestamp() - ahead
        if entry["event"] == "swap_began":
            found.append(Swap(moment, moment))
        elif found:
            found[-1] = Swap(found[-1].began, moment)
    return found


def _collect(database: Engine, heard: list[Heard], file: AnswerFile, outcome: Outcome) -> None:
    """Each stream beside the stored answer that it says it is."""
    for each in heard:
        with session(database) as opened:
            row = opened.get(Candidate, each.candidate_id) if each.ended else None
            if row is None:
                outcome.dropped.append(each.trouble or "it is not stored")
                continue
            asked = opened.get_one(Turn, row.turn_id).prompt
        shown = row.version_id, asked, row.seed, row.settings
        file.add(Answered(*shown, row.token_ids, row.finish_reason, each.times))
