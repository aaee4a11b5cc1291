"""Pairs as rows of token ids, and rows as the tensors of one batch.

A prompt that is too long is cut as everywhere (render.py), an answer at the plan's longest
answer; nothing is left out, and what was cut is counted.

Legend: b pairs, k score heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_engine.backbone import group_answers
from rlhf_engine.plan import RunPlan
from rlhf_engine.preferences import Pair
from rlhf_engine.render import answer_ids, prompt_ids

LABELS = ("target", "margin", "both_bad", "weights")


def tokenised(
    tokenizer: Any, pairs: Sequence[Pair], plan: RunPlan
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A row for each pair, and how many pairs were `truncated`, in an answer `answers_cut`."""
    rows, truncated, answers_cut = [], 0, 0
    for pair in pairs:
        prompt = prompt_ids(tokenizer, pair.prompt, plan.max_prompt_tokens)
        whole = [answer_ids(tokenizer, text) for text in (pair.chosen, pair.rejected)]
        cut = any(len(ids) > plan.max_answer_tokens for ids in whole)
        answers_cut += cut
        truncated += cut or len(prompt_ids(tokenizer, pair.prompt)) > plan.max_prompt_tokens
        chosen, rejected = (
            answer_ids(tokenizer, text, plan.max_answer_tokens)
            for text in (pair.chosen, pair.rejected)
        )
        rows.append(
            {
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_ids": rejected,
                "target": pair.target,
                "margin": pair.margin,
                "both_bad": int(pair.kind == "both_bad"),
                "weight": pair.weight,
            }
        )
    return rows, {"truncated": truncated, "answers_cut": answers_cut}


class PairCollator:
    """Rows of `tokenised` to the tensors of Scorer.forward, the answers of a pair side by side,
    and what the votes say: target, margin, both_bad [b], weights [b, k]."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch."""
        answers = [ids for row in rows for ids in (row["chosen_ids"], row["rejected_ids"])]
        groups = group_answers([row["prompt_ids"] for row in rows], answers, self.pad_id)
        labels = {name: torch.tensor([row[name] for row in rows]) for name in LABELS}
        names = ("prompts", "prompt_mask", "answers", "answer_mask")
        return {**{name: getattr(groups, name) for name in names}, **labels}
