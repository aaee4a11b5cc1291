"""A finished training run with its rows and its folder as a worker leaves them, without training.

Two people asked and voted on answers of version 0; the run made version 1 (from the gold answers)
and version 2 (from the votes), which then answered too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from rlhf_engine.files import write_lines
from rlhf_engine.plan import STAGES, RunPlan
from rlhf_engine.records import Prompt, PromptPassage, StageReport, to_json
from rlhf_engine.run_folder import RunFolder
from service import evidence, policies
from service.database import session
from service.tables import (
    Alias,
    Candidate,
    Comparison,
    Conversation,
    DataSource,
    Document,
    GateReport,
    GoldAnswer,
    Passage,
    Person,
    PolicyVersion,
    Thumb,
    TrainingRun,
    Turn,
    new_id,
    now,
)
from service.tables import StageReport as StageRow

BASE = "0" * 16
LEAVE = "Everybody has 28 days of annual leave a year."
HOTEL = "A hotel may cost 120 euros a night."
BATCHES = 12
FIGURES = {
    "questions": 40,
    "win_rate": {"value": 0.64, "lower": 0.55, "upper": 0.73},
    "chrf_live": 41.2,
    "chrf_candidate": 46.9,
    "chrf_gain": {"value": 5.7, "lower": 2.1, "upper": 9.3},
    "length_live": 21.0,
    "length_candidate": 24.0,
}
SECRET = "I have an illness that nobody may know of"
"""A question of an employee; it may stand in the snapshot's pages, and nowhere else."""


@dataclass(frozen=True)
class Trained:
    """Ids of what was made."""

    run: str
    folder: Path
    sft: str
    ppo: str
    votes: list[str]
    answers: list[str]


def train(
    engine: Engine,
    folder: Path,
    *,
    state: str = "promoted",
    votes: int = 6,
    versions: tuple[str, str] = ("1" * 16, "2" * 16),
) -> Trained:
    """Make all of it; `state` is the run's. Version 0 is made where there is none."""
    with session(engine) as opened:
        base = _base(opened)
        ada = Person(name="Ada Asker")
        opened.add(ada)
        opened.flush()
        passages = _documents(opened)
        chat = Conversation(person_id=ada.id, title="Leave")
        opened.add(chat)
        opened.flush()
        compared = [_compared(opened, chat, ada, base, passages, at) for at in range(votes)]
    run = TrainingRun(
        state="running",
        folder=str(folder),
        plan=to_json(RunPlan(base="base")),
        requested_by="scheduler",
        reason="57 new comparisons",
        started_at=now() - timedelta(minutes=12),
    )
    with session(engine) as opened:
        snapshot = evidence.freeze_snapshot(opened, folder / "snapshot", 10, passages=2)
    run.snapshot_hash = snapshot.hash
    _fill(folder)
    with session(engine) as opened:
        opened.add(run)
        opened.flush()
        line = [base]
        for kind, number in zip(("sft", "ppo"), versions, strict=True):
            known = opened.get(PolicyVersion, number)
            row = known or PolicyVersion(id=number, number=len(policies.numbers(opened)))
            row.kind, row.parent_id, row.run_id = kind, line[-1], run.id
            row.snapshot_hash = snapshot.hash
            opened.add(row)
            opened.flush()
            line.append(number)
        run.candidate_id = versions[1]
        for at, stage in enumerate(STAGES):
            ended = now() - timedelta(minutes=10 - 2 * at)
            report = StageRow(run_id=run.id, stage=stage, seconds=100.0 + at, created_at=ended)
            opened.add(report)
        sentence = "Passed: it wins 64% (55% to 73%) of 40 held-out questions."
        opened.add(GateReport(run_id=run.id, passed=True, sentence=sentence, figures=FIGURES))
        run.state = state
        run.finished_at = None if state == "awaiting_approval" else now()
        opened.add(run)
        served = [_answered(opened, chat, name, at) for at, name in enumerate(line)]
        if state == "promoted" and opened.get_one(PolicyVersion, base).id == BASE:
            opened.get_one(Alias, "live").version_id = versions[1]
            opened.get_one(PolicyVersion, versions[1]).state = "live"
            opened.get_one(PolicyVersion, base).state = "retired"
    answers = [name for pair in compared for name in pair[1]] + served
    return Trained(run.id, folder, *versions, [pair[0] for pair in compared], answers)


def _base(opened: Any) -> str:
    known = policies.aliased(opened, "live")
    if known is not None:
        return known.id
    opened.add(PolicyVersion(id=BASE, number=0, state="live"))
    opened.flush()
    opened.add(Alias(name="live", version_id=BASE))
    return BASE


def _documents(opened: Any) -> list[Passage]:
    """A source of two documents with a passage each, and four gold answers."""
    source = DataSource(name="handbook", plugin="markdown_folder")
    opened.add(source)
    opened.flush()
    passages = []
    for title, text in (("Annual leave", LEAVE), ("Hotels", HOTEL)):
        document = Document(
            source_id=source.id,
            external_id=title,
            title=title,
            text=text,
            url=f"https://handbook.example/{title}",
            readers=["everyone"],
            content_hash=title,
        )
        opened.add(document)
        opened.flush()
        passage = Passage(document_id=document.id, position=0, heading=title, text=text)
        opened.add(passage)
        passages.append(passage)
    for at, question in enumerate(("How much leave?", "Which hotel?", "Who signs?", "When?")):
        opened.add(
            GoldAnswer(
                source_id=source.id,
                external_id=str(at),
                question=question,
                answer=f"The right answer to {question}",
                author="Grace Handbook",
                content_hash=str(at),
            )
        )
    opened.flush()
    return passages


def _compared(
    opened: Any, chat: Conversation, ada: Person, base: str, passages: list[Passage], at: int
) -> tuple[str, list[str]]:
    question = SECRET if at == 0 else f"Question number {at}, please?"
    shown, number = passages[at % 2], new_id()
    prompt = Prompt(number, question, (PromptPassage(shown.id, shown.heading, shown.text),))
    turn = Turn(
        id=number,
        conversation_id=chat.id,
        position=at,
        question=question,
        prompt=to_json(prompt),
        compared=True,
    )
    opened.add(turn)
    opened.flush()
    rows = [
        Candidate(
            turn_id=turn.id,
            side=side,
            version_id=base,
            text=f"Answer {side} to number {at}.",
            finish_reason="stop",
            seed=1,
        )
        for side in ("A", "B")
    ]
    opened.add_all(rows)
    opened.flush()
    vote = Comparison(
        turn_id=turn.id,
        person_id=ada.id,
        candidate_a_id=rows[0].id,
        candidate_b_id=rows[1].id,
        choice="AB"[at % 2],
        version_a_id=base,
        version_b_id=base,
        created_at=now() - timedelta(hours=1),
    )
    opened.add(vote)
    opened.add(Thumb(candidate_id=rows[0].id, person_id=ada.id, value=1 if at % 2 else -1))
    opened.flush()
    return vote.id, [row.id for row in rows]


def _answered(opened: Any, chat: Conversation, version: str, at: int) -> str:
    turn = Turn(conversation_id=chat.id, position=100 + at, question="And then?")
    turn.prompt = to_json(Prompt(turn.id, turn.question))
    opened.add(turn)
    opened.flush()
    row = Candidate(turn_id=turn.id, version_id=version, text="Then.", finish_reason="stop", seed=1)
    opened.add(row)
    opened.flush()
    return row.id


def _fill(path: Path) -> None:
    """Plan, markers, metrics, samples, log and picture."""
    folder = RunFolder.create(path, RunPlan(base="base"))
    for step in range(20):
        folder.append_metrics({"step": step, "sft/loss": 3 - step / 10})
    for batch in range(BATCHES):
        folder.append_metrics(
            {
                "batch": batch,
                "objective/score": batch / 10,
                "objective/score_spread": 0.2,
                "objective/rlhf_reward": batch / 12,
                "objective/kl": batch / 4,
                "policy/entropy": 2 - batch / 20,
                "value/explained_variance": 0.5,
                "length/mean": 20 + batch,
            }
        )
    for at, stage in enumerate(STAGES):
        if stage != "snapshot":
            folder.mark_done(StageReport(stage, 100.0 + at, {}))
    write_lines(path / "evaluation" / "answers.jsonl", [_sample(at) for at in range(25)])
    lines = [
        f"2026-11-23T02:00:{at:02d}Z [info] stage_done stage={s}" for at, s in enumerate(STAGES)
    ]
    (path / "worker.log").write_text("\n".join(lines) + "\n")
    (path / "plot.png").write_bytes(PNG)


def _sample(at: int) -> dict[str, Any]:
    return {
        "prompt_id": f"p{at}",
        "question": f"Held-out question {at}?",
        "gold": "You have 28 days.",
        "live": "Perhaps 20 days.",
        "candidate": "28 days a year." if at else "# Heading\n<img src=x onerror=alert(1)>",
        "chrf_live": 30.0,
        "chrf_candidate": 60.0,
        "facts_live": None,
        "facts_candidate": None,
        "reward_live": -0.5,
        "reward_candidate": 0.75,
    }


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)
"""A picture of one pixel."""
