"""Pairs as rows of token ids, and rows as the tensors of one batch.

A row is a prompt with its answers and the pairs among them, so that neither a prompt nor an
answer is computed twice, however many votes it has (InstructGPT, arXiv 2203.02155, section
3.5). A prompt that is too long is cut as everywhere (render.py), an answer at the plan's
longest answer; nothing is left out, and what was cut is counted.

Legend: n prompts, g answers a prompt, b pairs, k score heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf_engine.backbone import group_answers
from rlhf_engine.plan import RunPlan
from rlhf_engine.preferences import Pair
from rlhf_engine.render import answer_ids, cut_answer, prompt_ids
from rlhf_engine.snapshot import normalised

LABELS = ("chosen", "rejected", "target", "margin", "both_bad", "weights")


@dataclass(slots=True)
class _Row:
    """A row that grows: its question's number, answers as ids, and pairs of their places."""

    question: int
    prompt_ids: list[int]
    answers: list[list[int]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)

    def with_room_for(self, answers: Sequence[list[int]], most: int) -> bool:
        """Whether the answers fit into a row of at most `most`."""
        new = [ids for ids in answers if ids not in self.answers]
        return len(self.answers) + len(new) <= most

    def place(self, ids: list[int]) -> int:
        """Where an answer stands, put there if it is new."""
        if ids not in self.answers:
            self.answers.append(ids)
        return self.answers.index(ids)


def tokenised(
    tokenizer: Any, pairs: Sequence[Pair], plan: RunPlan, weights: Tensor
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of at most `micro_batch_size` answers (2 at least), and what was cut.

    weights: [k, b], each head's weight of each pair. Rows of the same question, however it is
    spelled, have the same number `question`. The figures count the pairs that were `truncated`,
    and those among them with `answers_cut`.
    """
    open_rows: dict[tuple[int, ...], _Row] = {}
    rows: list[_Row] = []
    questions: dict[str, int] = {}
    truncated = answers_cut = 0
    for at, pair in enumerate(pairs):
        prompt, prompt_cut = _prompt(tokenizer, pair, plan.max_prompt_tokens)
        whole = [answer_ids(tokenizer, text) for text in (pair.chosen, pair.rejected)]
        answers = [cut_answer(ids, plan.max_answer_tokens) for ids in whole]
        answers_cut += answers != whole
        truncated += prompt_cut or answers != whole
        row = open_rows.get(tuple(prompt))
        if row is None or not row.with_room_for(answers, max(2, plan.micro_batch_size)):
            number = questions.setdefault(normalised(pair.prompt.question), len(questions))
            row = open_rows[tuple(prompt)] = _Row(number, prompt)
            rows.append(row)
        chosen, rejected = map(row.place, answers)
        row.pairs.append(_labels(pair, chosen, rejected, weights[:, at].tolist()))
    plain = [{name: getattr(row, name) for name in _Row.__slots__} for row in rows]
    return plain, {"truncated": truncated, "answers_cut": answers_cut}


def _prompt(tokenizer: Any, pair: Pair, most: int) -> tuple[list[int], bool]:
    """The prompt's ids, and whether they had to be cut to `most`."""
    whole = prompt_ids(tokenizer, pair.prompt)
    if len(whole) <= most:
        return whole, False
    return prompt_ids(tokenizer, pair.prompt, most), True


def _labels(pair: Pair, chosen: int, rejected: int, weights: list[float]) -> dict[str, Any]:
    return {
        "chosen": chosen,
        "rejected": rejected,
        "target": pair.target,
        "margin": pair.margin,
        "both_bad": pair.kind == "both_bad",
        "weights": [pair.weight * weight for weight in weights],
    }


class PairCollator:
    """Rows of `tokenised` to the tensors of Scorer.forward and what the votes say.

    chosen, rejected [b]: places among the n g answers; target, margin, both_bad [b]; weights
    [b, k]. Prompts with fewer answers than others are filled up with empty ones.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch."""
        g = max(len(row["answers"]) for row in rows)
        answers = [
            ids for row in rows for ids in [*row["answers"], *[[]] * (g - len(row["answers"]))]
        ]
        groups = group_answers([row["prompt_ids"] for row in rows], answers, self.pad_id)
        pairs = [
            {**pair, "chosen": at * g + pair["chosen"], "rejected": at * g + pair["rejected"]}
            for at, row in enumerate(rows)
            for pair in row["pairs"]
        ]
        labels = {name: torch.tensor([pair[name] for pair in pairs]) for name in LABELS}
        names = ("prompts", "prompt_mask", "answers", "answer_mask")
        return {**{name: getattr(groups, name) for name in names}, **labels}
