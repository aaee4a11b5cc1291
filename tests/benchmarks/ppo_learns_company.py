"""The demonstration company as data: questions with the passage that fits best, and a hidden
preference that stands in for people."""

from __future__ import annotations

import csv
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rlhf_engine import Comparison, Demonstration, Prompt
from rlhf_engine.records import Outcome, PromptPassage, Split
from rlhf_engine.similarity import answer_chrf
from rlhf_engine.snapshot import is_held_out
from service.demo import voter
from service.demo.voter import ERROR_SHARE, LEAST_DIFFERENCE

COMPANY = Path(voter.__file__).parent / "company"
HELD_OUT_PERCENT = 15


def company_questions(exam: int, train: int) -> list[Demonstration]:
    """At most so many questions of each side with their gold answers and one passage, the one
    that fits question and gold answer best: what retrieval is worth is not asked here. Some of
    the training side are held out, to measure the reward model."""
    passages = _passages()
    rarity = _rarity([f"{each.title} {each.text}" for each in passages])
    found = []
    for name, most in (("gold", train), ("held_out", exam)):
        rows = _rows(COMPANY / f"{name}.csv")
        random.Random(17).shuffle(rows)
        for row in rows[:most]:
            both = f"{row['question']} {row['answer']}"
            best = max(passages, key=lambda each: _overlap(both, each, rarity))
            held_out = is_held_out(row["question"], HELD_OUT_PERCENT)
            split: Split = "held_out" if held_out else "train"
            split = "exam" if name == "held_out" else split
            prompt = Prompt(row["id"], row["question"], (best,), split=split)
            found.append(Demonstration(prompt, row["answer"]))
    return found


def preferred(answers: tuple[str, str], gold: str) -> Outcome:
    """The hidden gold preference, the rule of the demonstration's voter without its errors: the
    answer that agrees more with the gold answer by chrF; where both agree alike, the shorter."""
    if answers[0].strip() == answers[1].strip():
        return "tie"
    first, second = answer_chrf(answers, [gold, gold])
    if abs(first - second) >= LEAST_DIFFERENCE:
        return "a" if first > second else "b"
    words = [len(answer.split()) for answer in answers]
    if words[0] != words[1]:
        return "a" if words[0] < words[1] else "b"
    return "tie"


def cast_votes(
    questions: Sequence[Demonstration], answers: Sequence[str], seed: int
) -> list[Comparison]:
    """A simulated vote on each two neighbours; as many err as the demonstration's voters do."""
    drawn = random.Random(f"votes/{seed}")
    votes = []
    for at, item in enumerate(questions):
        pair = (answers[2 * at], answers[2 * at + 1])
        outcome = preferred(pair, item.answer)
        if outcome != "tie" and drawn.random() < ERROR_SHARE:
            outcome = "b" if outcome == "a" else "a"
        votes.append(Comparison(f"c{at}", item.prompt, *pair, outcome, simulated=True))
    return votes


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _passages() -> list[PromptPassage]:
    """Each section of each document, with the document's title."""
    found = []
    for path in sorted((COMPANY / "documents").glob("*.md")):
        title, *sections = re.split(r"^#+ ", path.read_text(encoding="utf-8"), flags=re.M)[1:]
        for number, section in enumerate(sections):
            heading, _, text = section.partition("\n")
            name = f"{title.splitlines()[0]}: {heading}"
            found.append(PromptPassage(f"{path.stem}-{number}", name, " ".join(text.split())))
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _rarity(texts: Sequence[str]) -> dict[str, float]:
    """Inverse document frequency of each word."""
    counts = Counter(word for text in texts for word in _words(text))
    return {word: math.log(len(texts) / count) for word, count in counts.items()}


def _overlap(text: str, passage: PromptPassage, rarity: dict[str, float]) -> float:
    """Rarity of the words that text and passage share, against the passage's length."""
    words = _words(f"{passage.title} {passage.text}")
    shared = sum(rarity.get(word, 0.0) for word in _words(text) & words)
    return shared / math.sqrt(len(words) + 20)
