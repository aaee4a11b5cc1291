"""Small runs for engine tests: a tiny base policy, a few questions, a second a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlhf_engine.plan import EvaluationPlan, LoraPlan, PpoPlan, RewardPlan, RunPlan, SftPlan
from rlhf_engine.records import Comparison, Demonstration, Prompt, PromptPassage
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import freeze

PLACES = ("Boston", "Berlin", "Pune", "Leeds")
THINGS = ("reception", "library", "canteen", "workshop")


def demonstrations() -> list[Demonstration]:
    """Sixteen questions, of which four are an exam."""
    rows = []
    for floor, place in enumerate(PLACES, start=1):
        for thing in THINGS:
            text = f"The {thing} in {place} is on floor {floor}."
            prompt = Prompt(
                id=f"{thing}-{place}",
                question=f"Where is the {thing} in {place}?",
                passages=(PromptPassage(f"p-{place}", place, text),),
                split="exam" if thing == "workshop" else "train",
            )
            rows.append(Demonstration(prompt, text))
    return rows


def comparisons() -> list[Comparison]:
    """The gold answer against a rude one, for every question, half of them shown as B."""
    rows = []
    for at, item in enumerate(demonstrations()):
        prompt = replace(item.prompt, split="held_out" if item.prompt.split == "exam" else "train")
        pair = (item.answer, "Go and look for it yourself, I will not tell you anything.")
        rows.append(
            Comparison(
                id=f"c{at}",
                prompt=prompt,
                answer_a=pair[at % 2],
                answer_b=pair[1 - at % 2],
                outcome="b" if at % 2 else "a",
                strength="much" if at % 3 else None,
                rater="r1",
                simulated=True,
            )
        )
    return rows


def tiny_plan(base: Path, **changes: object) -> RunPlan:
    """A plan whose every stage takes about a second."""
    plan = RunPlan(
        base=str(base),
        dtype="float32",
        threads=1,
        max_prompt_tokens=128,
        max_answer_tokens=12,
        lora=LoraPlan(rank=4, alpha=8),
        sft=SftPlan(epochs=2, learning_rate=3e-3, batch_size=4),
        reward_model=RewardPlan(epochs=4, learning_rate=3e-3, batch_size=4),
        ppo=PpoPlan(
            rollout_batches=3, rollout_size=6, answers_per_prompt=3, minibatch_size=3, epochs=2
        ),
        evaluation=EvaluationPlan(bootstrap_rounds=100),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def tiny_run(folder: Path, plan: RunPlan) -> RunFolder:
    """A run folder with its plan and frozen snapshot, ready for `train`."""
    run = RunFolder.create(folder, plan)
    gold = demonstrations()
    prompts = [item.prompt for item in gold if item.prompt.split == "train"]
    freeze(run.stage_path("snapshot"), gold, comparisons(), prompts)
    return run
