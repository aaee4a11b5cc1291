"""Answers of a run's candidate and of the policy that was live, to the same held-out questions.

The stage evaluation keeps them beside the gold answers, at most evaluation.max_questions.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from service.line_pages import LinePage, read_rows

MOST_SAMPLES = 20


class Sample(msgspec.Struct):
    """A held-out question, the right answer, and what both policies say. Likeness is chrF to the
    right answer, 0 to 100; scores are the reward model's, null where the run trained none."""

    prompt_id: str
    question: str
    gold: str
    live: str
    candidate: str
    chrf_live: float
    chrf_candidate: float
    reward_live: float | None = None
    reward_candidate: float | None = None


_decoder = msgspec.json.Decoder(Sample)


def read_samples(run: Path, after: int = 0) -> LinePage:
    """A page of samples; NotFoundError before the evaluation is done."""
    return read_rows(run / "evaluation" / "answers.jsonl", after, MOST_SAMPLES, _decoder.decode)
