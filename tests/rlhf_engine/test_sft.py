"""The SFT stage: answer-only loss, length grouping, early stop, replay against forgetting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlhf_engine.answer_sheet import SheetRow, cross_entropies
from rlhf_engine.answer_trainer import IGNORED, answer_part, random_padding_share
from rlhf_engine.backbone import Backbone, lora_config
from rlhf_engine.early_stop import EarlyStop
from rlhf_engine.errors import PlanError, TrainingError
from rlhf_engine.files import read_lines, sha256_of
from rlhf_engine.gold_answers import WATCHED, choose_lessons
from rlhf_engine.plan import LoraPlan, RunPlan, SftPlan
from rlhf_engine.records import Demonstration, Prompt, PromptPassage, Split
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.sft import before_and_after, rows_at_once, run_sft
from rlhf_engine.snapshot import Snapshot, freeze
from rlhf_engine.stage import Stage, TrainerWatch
from tests.rlhf_engine.runs import tiny_plan
from tests.tiny import tiny_base

WEIGHTS = "adapter/adapter_model.safetensors"
LEARN = SftPlan(epochs=20, learning_rate=2e-2, batch_size=4, watched_questions=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def rooms(things: Sequence[str], floor: int, split: Split = "train") -> list[Demonstration]:
    return [
        Demonstration(
            Prompt(f"{thing}-{at}", f"Where is {thing} {at}?", split=split),
            f"The {thing} {at} is on floor {floor}.",
        )
        for thing in things
        for at in range(4)
    ]


OLD = rooms(("library", "canteen"), 3)
NEW = rooms(("workshop", "garage"), 7)


def sft(
    folder: Path, plan: RunPlan, demonstrations: Sequence[Demonstration]
) -> tuple[Stage, dict[str, Any]]:
    """Run the stage alone on these gold answers."""
    run = RunFolder.create(folder, plan)
    snapshot = freeze(run.stage_path("snapshot"), demonstrations, [], [])
    stage = Stage("sft", run, plan, "float32")
    stage.path.mkdir(parents=True)
    return stage, run_sft(stage, snapshot).figures


def loss_on(base: Path, stage: Stage, demonstrations: Sequence[Demonstration]) -> float:
    """Mean cross-entropy of the gold answers under the stage's adapter."""
    backbone = Backbone.load(base, "float32")
    backbone.add_adapter("sft", stage.path / "adapter")
    losses = cross_entropies(backbone, "sft", demonstrations, stage.plan)
    return sum(losses) / len(losses)


def test_loss_and_gradient_of_the_answer_part_are_those_of_the_whole_row(base: Path) -> None:
    model = Backbone.load(base, "float32").model
    model.lm_head.weight.requires_grad_(True)
    ids = torch.randint(3, 500, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :7] = IGNORED
    labels[1, :5] = labels[1, 9:] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    part = answer_part(inputs)
    assert part["logits_to_keep"] == 8
    found = []
    for given in (inputs, part):
        output = model(**given)
        model.zero_grad()
        output.loss.backward()
        found.append((output.logits.shape[1], output.loss, model.lm_head.weight.grad.clone()))
    assert [width for width, _, _ in found] == [12, 8]
    torch.testing.assert_close(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])


def test_rows_of_like_length_go_together(base: Path, tmp_path: Path) -> None:
    words = ("leave", "days", "manager", "travel", "desk")
    unequal = [
        Demonstration(
            Prompt(
                f"q{at}",
                f"What is {at}?",
                (PromptPassage("p", "Handbook", " ".join(words * (1 + 3 * (at % 4)))),),
            ),
            f"It is {at}.",
        )
        for at in range(48)
    ]
    plan = tiny_plan(base, sft=replace(LEARN, epochs=1), micro_batch_size=4)
    _, figures = sft(tmp_path, plan, unequal)
    assert figures["padding_share_random"] > 0.1
    assert figures["padding_share"] < figures["padding_share_random"] / 2


def test_the_padding_of_a_random_order_by_hand() -> None:
    """Rows of 1 and 3 together: 6 places, 4 tokens. One row at a time has no padding."""
    assert random_padding_share([1, 3], 2, seed=1) == pytest.approx(1 / 3)
    assert random_padding_share([1, 3, 9], 1, seed=1) == 0


@pytest.mark.parametrize(
    ("batch_size", "most", "rows"),
    [(4, 3, 2), (12, 8, 6), (5, 3, 1), (4, 4, 4), (4, 8, 4), (1, 1, 1), (4096, 4095, 2048)],
)
def test_passes_of_as_many_rows_make_a_step(batch_size: int, most: int, rows: int) -> None:
    assert rows_at_once(batch_size, most) == rows


def test_a_step_learns_from_as_many_answers_as_the_plan_says(base: Path, tmp_path: Path) -> None:
    """16 answers, 4 a step, at most 3 at once."""
    plan = tiny_plan(base, sft=replace(LEARN, epochs=1), micro_batch_size=3)
    _, figures = sft(tmp_path, plan, OLD + NEW)
    assert figures["steps"] == 4


class Evaluated:
    """Plays a Trainer that measures one held-out loss after another."""

    def __init__(self, base: Path, patience: int) -> None:
        model = Backbone.load(base, "float32").model
        adapted = get_peft_model(model, lora_config(model, LoraPlan(rank=2, alpha=2)))
        self.parameters = [each for each in adapted.parameters() if each.requires_grad]
        self.stop = EarlyStop(self.parameters, patience)
        self.control = TrainerControl()

    def hear(self, *losses: float) -> bool:
        """Set every weight to the evaluation's number, and tell its loss."""
        for at, loss in enumerate(losses, start=1):
            with torch.no_grad():
                for parameter in self.parameters:
                    parameter.fill_(float(at))
            state = TrainerState(global_step=at, max_steps=9)
            settings = TrainingArguments(use_cpu=True)
            self.stop.on_evaluate(settings, state, self.control, {"eval_loss": loss})
        return bool(self.control.should_training_stop)


@pytest.mark.parametrize(
    ("patience", "losses", "stops"),
    [
        (1, (3.0, 2.0), False),
        (1, (3.0, 2.0, 2.5), True),
        (1, (3.0, 2.0, 2.0), True),
        (2, (3.0, 2.0, 2.5, 1.9), False),
        (2, (3.0, 2.0, 2.5, 2.4), True),
    ],
)
def test_training_stops_after_so_many_looks_that_were_no_better(
    base: Path, patience: int, losses: tuple[float, ...], stops: bool
) -> None:
    evaluated = Evaluated(base, patience)
    assert evaluated.hear(*losses) is stops
    evaluated.stop.restore()
    best = 1 + losses.index(min(losses))
    assert evaluated.stop.best_step == best
    assert all(bool((each == best).all()) for each in evaluated.parameters)


def test_a_policy_that_learns_too_long_is_kept_at_its_best(base: Path, tmp_path: Path) -> None:
    """The held-out answers are unlike the training ones: each epoch makes them less likely."""
    held_out = [replace(item, answer="Yes, 28.") for item in rooms(("hall", "yard"), 0, "held_out")]
    exam = rooms(("exam",), 3, "exam")
    watching = replace(LEARN, watched_questions=8, patience=2)
    stage, figures = sft(tmp_path, tiny_plan(base, sft=watching), OLD + held_out + exam)
    losses = figures["held_out_losses"]
    assert figures["watched"] == 8
    assert figures["stopped_early"] is True
    assert len(losses) < LEARN.epochs
    assert figures["held_out_loss"] == min(losses) < losses[-1]
    assert figures["best_step"] == 2 * (1 + losses.index(min(losses))) < figures["steps"]
    kept = loss_on(base, stage, held_out)
    assert kept == pytest.approx(min(losses), abs=0.05)
    assert {p.name for p in stage.path.iterdir()} == {"adapter", WATCHED}


def test_replay_keeps_what_was_learnt_before(base: Path, tmp_path: Path) -> None:
    plan = tiny_plan(base, sft=LEARN, lora=LoraPlan(rank=16, alpha=32), max_answer_tokens=24)
    first, _ = sft(tmp_path / "first", plan, OLD)
    learnt = loss_on(base, first, OLD)
    forgotten: dict[float, float] = {}
    for share in (0.0, 0.5):
        going_on = replace(
            LEARN,
            start_from=str(first.path / "adapter"),
            seen=str(first.run.stage_path("snapshot")),
            replay_share=share,
        )
        stage, figures = sft(tmp_path / f"{share}", replace(plan, sft=going_on), OLD + NEW)
        assert (figures["new"], figures["replayed"]) == (8, 8 * share)
        assert loss_on(base, stage, NEW) < 1.5 < loss_on(base, first, NEW)
        forgotten[share] = loss_on(base, stage, OLD)
    assert learnt < 1.5
    assert forgotten[0.5] < 1.5 < 2 * forgotten[0.5] < forgotten[0.0]


def test_with_nothing_new_and_nothing_replayed_the_earlier_policy_stays(
    base: Path, tmp_path: Path
) -> None:
    plan = tiny_plan(base, sft=replace(LEARN, epochs=1))
    first, _ = sft(tmp_path / "first", plan, OLD)
    going_on = replace(
        plan.sft,
        start_from=str(first.path / "adapter"),
        seen=str(first.run.stage_path("snapshot")),
        replay_share=0,
    )
    stage, figures = sft(tmp_path / "second", replace(plan, sft=going_on), OLD)
    assert figures["steps"] == 0
    assert sha256_of(stage.path / WEIGHTS) == sha256_of(first.path / WEIGHTS)


def test_what_was_watched_is_left_for_the_run_that_goes_on(base: Path, tmp_path: Path) -> None:
    many = rooms([f"room {at}" for at in range(10)], 3)
    sometimes = replace(LEARN, epochs=2, watched_questions=8, watched_percent=50)
    plan = tiny_plan(base, sft=sometimes)
    first, figures = sft(tmp_path / "first", plan, many)
    assert (figures["watched"], figures["new"]) == (8, 32)
    snapshot = Snapshot.open(first.run.stage_path("snapshot"))
    going_on = replace(sometimes, start_from=str(first.path / "adapter"), seen=str(snapshot.path))
    lessons = choose_lessons(going_on, plan.seed, snapshot)
    assert lessons.watched == choose_lessons(sometimes, plan.seed, snapshot).watched
    assert lessons.new == ()
    stage, figures = sft(tmp_path / "second", replace(plan, sft=going_on), many + NEW)
    assert figures["watched"] == 8
    assert len(json.loads((stage.path / WATCHED).read_text())) == 8


def test_an_adapter_of_another_shape_is_refused(base: Path, tmp_path: Path) -> None:
    plan = tiny_plan(base, sft=replace(LEARN, epochs=1))
    first, _ = sft(tmp_path / "first", plan, OLD)
    going_on = replace(
        plan.sft,
        start_from=str(first.path / "adapter"),
        seen=str(first.run.stage_path("snapshot")),
    )
    wider = replace(plan, sft=going_on, lora=LoraPlan(rank=8, alpha=8))
    with pytest.raises(PlanError, match="has r 4, and the plan makes 8"):
        sft(tmp_path / "second", wider, OLD + NEW)


def test_training_leaves_the_base_policy_as_it_was(base: Path, tmp_path: Path) -> None:
    """The same weights answer as the base policy after they carried an adapter in training."""
    exam = rooms(("exam",), 3, "exam")
    stage, figures = sft(tmp_path, tiny_plan(base, sft=LEARN), OLD + exam)
    fresh = Backbone.load(base, "float32")
    losses = cross_entropies(fresh, None, exam, stage.plan)
    assert figures["cross_entropy_before"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert figures["cross_entropy_after"] < figures["cross_entropy_before"] - 1


def row(chrf: float, facts: float | None) -> SheetRow:
    return SheetRow("q", "Where?", "Floor 3.", "", 1, "stop", chrf, 0.0, 0.0, facts)


def test_gains_are_paired_and_facts_count_where_there_are_any() -> None:
    """Facts gained in two of three questions; chrF falls by 1 in each of four."""
    before = [row(30, 0.0), row(20, 0.5), row(10, 1.0), row(40, None)]
    after = [row(29, 1.0), row(19, 1.0), row(9, 1.0), row(39, None)]
    figures = before_and_after(before, after)
    assert figures["chrf_gain_interval"] == [-1, -1]
    assert figures["facts_questions"] == 3
    assert (figures["facts_before"], figures["facts_after"]) == (0.5, 1.0)
    assert figures["facts_gain"] == 0.5
    assert figures["facts_gain_interval"][0] < 0 < 0.5 < figures["facts_gain_interval"][1]


def test_answers_without_any_fact_have_no_facts_figures() -> None:
    figures = before_and_after([row(30, None)], [row(31, None)])
    assert figures["facts_questions"] == 0
    assert "facts_before" not in figures


def test_the_sheet_keeps_each_answers_share_of_facts(base: Path, tmp_path: Path) -> None:
    exam = [*rooms(("exam",), 3, "exam"), replace(OLD[0], answer="Ask your manager.")]
    exam[-1] = replace(exam[-1], prompt=replace(exam[-1].prompt, split="exam", id="last"))
    stage, figures = sft(tmp_path, tiny_plan(base, sft=replace(LEARN, epochs=1)), NEW + exam)
    rows = read_lines(stage.run.path / "answers" / "sft.jsonl")
    assert [each["facts"] is None for each in rows] == [False] * 4 + [True]
    assert figures["facts_questions"] == 4


@pytest.mark.parametrize("key", ["loss", "grad_norm", "eval_loss"])
def test_a_figure_that_is_not_finite_ends_the_stage(base: Path, tmp_path: Path, key: str) -> None:
    run = RunFolder.create(tmp_path, tiny_plan(base))
    watch = TrainerWatch(Stage("sft", run, run.plan(), "float32"), "learning")
    state, control = TrainerState(global_step=3), TrainerControl()
    settings = TrainingArguments(use_cpu=True)
    watch.on_log(settings, state, control, {key: 1.0})
    with pytest.raises(TrainingError, match=rf"{key} is nan at step 3; lower sft.learning_rate"):
        watch.on_log(settings, state, control, {key: float("nan")})
    assert len(run.metrics()) == 1


def test_damaged_weights_end_the_stage_with_an_error(base: Path, tmp_path: Path) -> None:
    damaged = tiny_base(tmp_path / "base")
    weights = load_file(str(damaged / "model.safetensors"))
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, str(damaged / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"stage sft: .* is nan at step 1"):
        sft(tmp_path / "run", tiny_plan(damaged, sft=LEARN), OLD)
