"""Which pairs a person's vote would teach the most about: those the reward heads disagree on.

Legend: k heads, n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from rlhf_engine.backbone import Backbone
from rlhf_engine.generation import limited_threads
from rlhf_engine.plan import RunPlan
from rlhf_engine.reward_model import RewardModel
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.waiting import WaitingPair, read_spreads, read_waiting, write_spreads


def score_disagreement(run_dir: Path) -> None:
    """Read the pairs left in a finished run's folder by its reward model; nothing where it has
    none of either, or did it already. RunFolderError where the pairs cannot be read."""
    run = RunFolder(run_dir)
    pairs = read_waiting(run.path)
    if not pairs or read_spreads(run.path) is not None or run.report("reward_model") is None:
        return
    plan = run.plan()
    with limited_threads(plan.threads):
        spreads = spread_of(_scores(run, plan, pairs))
    write_spreads(run.path, {pair.id: s for pair, s in zip(pairs, spreads, strict=True)})


def spread_of(scores: Tensor) -> list[float]:
    """Deviation over the heads of how much better each pair's first answer is than its second;
    scores [k, 2n], the two answers of a pair beside one another. 0 with a single head."""
    gains = scores[:, 0::2] - scores[:, 1::2]
    return [float(spread) for spread in gains.std(dim=0, correction=0)]


def _scores(run: RunFolder, plan: RunPlan, pairs: Sequence[WaitingPair]) -> Tensor:
    kept = run.path / "dtype"
    dtype = kept.read_text(encoding="utf-8") if plan.dtype == "auto" else plan.dtype
    model = RewardModel(Backbone.load(Path(plan.base), dtype), run.stage_path("reward_model"))
    answers = [text for pair in pairs for text in (pair.answer_a, pair.answer_b)]
    return model.text_scores([pair.prompt for pair in pairs], answers, plan)
