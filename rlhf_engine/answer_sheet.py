"""A policy's own greedy answers to the evaluation questions, kept once for each policy in a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf_engine import ppo_math
from rlhf_engine.backbone import Backbone
from rlhf_engine.files import read_lines, write_lines
from rlhf_engine.generation import generate
from rlhf_engine.plan import RunPlan
from rlhf_engine.probes import TOKENS
from rlhf_engine.records import Demonstration, SamplingSettings, from_json, to_json
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.similarity import answer_similarity

OnAnswers = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One question with the policy's answer beside the person's. `cross_entropy` is the mean
    nats a token that the policy needs for the person's answer; `tokens` its own answer's length;
    `facts` the share of the person's exact facts that it states, None where there are none; its
    first tokens and their log-probabilities are for probes.py."""

    prompt_id: str
    question: str
    gold: str
    answer: str
    tokens: int
    finish_reason: str
    chrf: float
    rouge_l: float
    cross_entropy: float
    facts: float | None = None
    first_ids: tuple[int, ...] = ()
    first_logprobs: tuple[float, ...] = ()


def fill_sheet(
    path: Path,
    backbone: Backbone,
    adapter: str | None,
    demonstrations: Sequence[Demonstration],
    plan: RunPlan,
    on_answers: OnAnswers | None = None,
) -> list[SheetRow]:
    """Answer every question greedily and compare; the rows of `path` if it is there already."""
    if path.exists():
        return [from_json(SheetRow, row) for row in read_lines(path)]
    prompts = [item.prompt for item in demonstrations]
    sampled = generate(
        backbone,
        adapter,
        prompts,
        [0] * len(prompts),
        SamplingSettings(temperature=0, max_new_tokens=plan.max_answer_tokens),
        max_prompt_tokens=plan.max_prompt_tokens,
        on_answers=(lambda done: on_answers(done, len(prompts))) if on_answers else None,
    )
    golds = [item.answer for item in demonstrations]
    similar = answer_similarity([answer.text for answer in sampled], golds)
    entropies = cross_entropies(backbone, adapter, demonstrations, plan)
    rows = [
        SheetRow(
            prompt_id=item.prompt.id,
            question=item.prompt.question,
            gold=item.answer,
            answer=answer.text,
            tokens=len(answer.token_ids),
            finish_reason=answer.finish_reason,
            chrf=reading.chrf,
            rouge_l=reading.rouge_l,
            cross_entropy=entropy,
            facts=reading.facts,
            first_ids=answer.token_ids[:TOKENS],
            first_logprobs=answer.logprobs[:TOKENS],
        )
        for item, answer, reading, entropy in zip(
            demonstrations, sampled, similar, entropies, strict=True
        )
    ]
    write_lines(path, [to_json(row) for row in rows])
    return rows


@torch.inference_mode()
def cross_entropies(
    backbone: Backbone,
    adapter: str | None,
    demonstrations: Sequence[Demonstration],
    plan: RunPlan,
    batch_size: int = 8,
) -> list[float]:
    """Mean nats a token of each person's answer under the policy."""
    result: list[float] = []
    for start in range(0, len(demonstrations), batch_size):
        rows = demonstrations[start : start + batch_size]
        batch = backbone.group(
            [prompt_ids(backbone.tokenizer, r.prompt, plan.max_prompt_tokens) for r in rows],
            [answer_ids(backbone.tokenizer, r.answer, plan.max_answer_tokens) for r in rows],
        )
        with backbone.using(adapter):
            logprobs = ppo_math.gathered_logprobs(backbone.logits(batch), batch.answers, 1.0)
        totals = (-logprobs * batch.answer_mask).sum(dim=1) / batch.answer_mask.sum(dim=1)
        result.extend(totals.tolist())
    return result
