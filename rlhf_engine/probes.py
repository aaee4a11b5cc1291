"""Probes: the beginnings of a few of a policy's own greedy answers, as they were in training.

They are kept with its version. A server that has loaded it answers the same questions, and sees
whether what it computes with is what was trained: another scale of the adapter, another template or
a wrong product shows here, where a smoke question only shows nonsense. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rlhf_engine.files import read_lines
from rlhf_engine.plan import RunPlan
from rlhf_engine.records import Prompt, SampledAnswer
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import Snapshot

COUNT, TOKENS = 3, 16
"""Answers that are kept, and tokens of each."""
EXACT = "float32"
MOST_APART = 1e-3
"""How far log-probabilities may lie apart where both sides compute in float32."""
MEAN_APART, AGREE = 0.1, 0.5
"""Else: how far on average, and the share of tokens that must be the same. bfloat16 keeps 8 bits,
so that two of nearly the same probability change places now and then."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt with the first tokens of the policy's greedy answer and their log-probabilities at
    temperature 1, in the number format `dtype`; the prompt was cut to `max_prompt_tokens`."""

    prompt: Prompt
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    dtype: str
    max_prompt_tokens: int


def probes_of(run: RunFolder, plan: RunPlan, snapshot: Snapshot, kind: str) -> list[Probe]:
    """Probes of the policy that a finished run made, by `kind`: "sft" or "ppo". From the answers
    that it was evaluated by; none where it was not."""
    sheet = run.path / "answers" / f"{'sft' if kind == 'sft' else 'candidate'}.jsonl"
    prompts = {item.prompt.id: item.prompt for item in snapshot.evaluation_demonstrations()}
    rows = [row for row in (read_lines(sheet) if sheet.exists() else []) if row.get("first_ids")]
    return [
        Probe(
            prompts[row["prompt_id"]],
            tuple(row["first_ids"]),
            tuple(row["first_logprobs"]),
            _dtype(run.path, plan),
            plan.max_prompt_tokens,
        )
        for row in rows[:COUNT]
    ]


def probe_difference(
    probes: Sequence[Probe], answers: Sequence[SampledAnswer], dtype: str
) -> str | None:
    """How answers to these probes, computed in `dtype`, differ from those in training by more than
    rounding; None where they do not."""
    apart: list[float] = []
    for probe, answer in zip(probes, answers, strict=True):
        same = _agreeing(probe.token_ids, answer.token_ids)
        pairs = zip(probe.logprobs[:same], answer.logprobs, strict=False)
        apart += [abs(trained - served) for trained, served in pairs]
        if dtype == probe.dtype == EXACT and same < len(probe.token_ids):
            return f"token {same + 1} of the answer to probe {probe.prompt.id} is another"
    exact = all(dtype == probe.dtype == EXACT for probe in probes)
    tokens = sum(len(probe.token_ids) for probe in probes)
    if len(apart) < AGREE * tokens:
        return f"{len(apart)} of {tokens} tokens are the same"
    far = max(apart, default=0.0) if exact else fmean(apart or [0.0])
    limit = MOST_APART if exact else MEAN_APART
    if far > limit:
        return f"log-probabilities lie {far:.2g} apart, and may by {limit:g}"
    return None


def _agreeing(trained: Sequence[int], served: Sequence[int]) -> int:
    pairs = list(zip(trained, served, strict=False))
    return next((at for at, (own, other) in enumerate(pairs) if own != other), len(pairs))


def _dtype(run: Path, plan: RunPlan) -> str:
    """What the run computed in; it keeps a choice that was measured (pipeline.py)."""
    kept = run / "dtype"
    return kept.read_text(encoding="utf-8") if plan.dtype == "auto" else plan.dtype
