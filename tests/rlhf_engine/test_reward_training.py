"""The reward model learns what votes say, equals TRL's loss, and starts from the last cycle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from rlhf_engine.backbone import SCORE_KEY, AnswerGroups, Backbone, read_adapter, read_answers
from rlhf_engine.critic import Critic
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.files import sha256_of
from rlhf_engine.pair_rows import PairCollator, tokenised
from rlhf_engine.plan import LoraPlan
from rlhf_engine.preferences import Pair, gather_pairs
from rlhf_engine.records import Comparison, Prompt
from rlhf_engine.render import answer_ids
from rlhf_engine.reward_beginning import warm_start
from rlhf_engine.reward_model import CRITIC, RewardModel, Scale, adapter_folder
from rlhf_engine.reward_training import ComparisonTrainer, Scorer
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.stage import Stage
from tests.rlhf_engine.reward_runs import learn, reward_stage
from tests.rlhf_engine.runs import comparisons, demonstrations, tiny_plan
from tests.tiny import tiny_base

RUDE = "Go and look for it yourself, I will not tell you anything."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def both_bad() -> list[Comparison]:
    """Every question once more, with two rude answers that were both called bad."""
    return [
        replace(item, id=f"bad{at}", answer_a=RUDE, answer_b=f"{RUDE} Go.", outcome="both_bad")
        for at, item in enumerate(comparisons())
    ]


def scored(base: Path, folder: Path, prompt: Prompt, *answers: str) -> torch.Tensor:
    """Mean scores of answers to one prompt by a stored reward model."""
    model = RewardModel(Backbone.load(base), folder)
    return torch.tensor(model.score_texts([prompt], answers, tiny_plan(base)))


@pytest.mark.parametrize("separate", [False, True])
def test_what_people_chose_scores_higher_on_questions_it_never_saw(
    base: Path, tmp_path: Path, separate: bool
) -> None:
    stage = reward_stage(tmp_path, base, separate_adapters=separate)
    report = learn(stage, comparisons())
    assert report.figures["accuracy"] == 1.0
    assert report.figures["held_out"] == 4
    assert report.figures["heads"] == 3
    assert report.figures["heads_spread"] > 0
    item = comparisons()[3]
    good, bad = scored(base, stage.path, item.prompt, item.chosen, item.rejected)
    assert good > bad
    assert adapter_folder(stage.path, 2).exists() == separate


def test_one_head_over_one_adapter_has_no_spread(base: Path, tmp_path: Path) -> None:
    report = learn(reward_stage(tmp_path, base, heads=1), comparisons())
    assert report.figures["heads_spread"] == 0
    assert report.figures["heads_agree"] == 1


def test_scores_have_mean_0_and_deviation_1_over_the_training_answers(
    base: Path, tmp_path: Path
) -> None:
    stage = reward_stage(tmp_path, base)
    learn(stage, comparisons())
    model = RewardModel(Backbone.load(base), stage.path)
    train = [item for item in comparisons() if item.prompt.split == "train"]
    scores = model.text_scores(
        [item.prompt for item in train],
        [text for item in train for text in (item.chosen, item.rejected)],
        stage.plan,
    )
    torch.testing.assert_close(scores.mean(dim=1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.std(dim=1), torch.ones(3), atol=1e-4, rtol=0)
    assert Critic.load(stage.path / CRITIC)(torch.zeros(2, 3, 64)).shape == (2, 3)


def test_answers_called_bad_fall_below_those_that_merely_tie(base: Path, tmp_path: Path) -> None:
    ties = [
        replace(item, answer_a=item.chosen, answer_b=f"{item.chosen} Yes.", outcome="tie")
        for item in comparisons()
    ]
    votes = [*comparisons(), *ties, *both_bad()]
    report = learn(reward_stage(tmp_path, base, both_bad_weight=1.0, epochs=8.0), votes)
    assert (report.figures["both_bad"], report.figures["ties"]) == (12, 12)
    assert report.figures["both_bad_held_out"] == 4
    assert report.figures["both_bad_below_average"] == 1.0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    base: Path, tmp_path: Path
) -> None:
    hashes = []
    for name, seed in (("one", 17), ("two", 17), ("three", 18)):
        stage = reward_stage(tmp_path / name, base)
        stage.plan = replace(stage.plan, seed=seed)
        learn(stage, comparisons())
        hashes.append(sha256_of(stage.path / "adapter" / "adapter_model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


class Trl(RewardTrainer):  # type: ignore[misc]
    """TRL's own trainer, its loss within reach."""


def quiet_config(folder: Path, **more: Any) -> RewardConfig:
    return RewardConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        max_length=None,
        remove_unused_columns=False,
        **more,
    )


class LastTokenScorer(Scorer):
    """Reads all layers' state at the end of the answer, as TRL's classifier does."""

    def forward(
        self,
        prompts: torch.Tensor,
        prompt_mask: torch.Tensor,
        answers: torch.Tensor,
        answer_mask: torch.Tensor,
    ) -> torch.Tensor:
        groups = AnswerGroups(prompts, prompt_mask, answers, answer_mask)
        hidden = read_answers(self.model, groups, head=False).last_hidden_state
        return self.score @ hidden[torch.arange(len(hidden)), groups.lengths].T


@pytest.fixture
def parity(base: Path, tmp_path: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Loss of one batch by this trainer and by TRL's, at the same weights; hard targets, margins
    by strength, one head."""
    plan = tiny_plan(base)
    backbone = Backbone.load(base)
    pairs = [
        replace(pair, target=1.0)
        for pair in gather_pairs(comparisons(), [], replace(plan.reward_model)).pairs
    ]
    rows, _ = tokenised(backbone.tokenizer, pairs, plan, torch.ones(1, len(pairs)))
    heads = torch.randn(1, backbone.width, generator=torch.Generator().manual_seed(0))
    ours = ComparisonTrainer(
        model=LastTokenScorer(backbone, heads.clone(), 2),
        args=quiet_config(tmp_path / "ours"),
        train_dataset=Dataset.from_list(rows),
        processing_class=backbone.tokenizer,
        data_collator=PairCollator(backbone.pad_id),
        centre_coefficient=0.01,
        both_bad_weight=0.25,
    )
    loss = ours.compute_loss(ours.model, ours.data_collator(rows))
    classifier = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32
    )
    with torch.no_grad():
        classifier.score.weight.copy_(heads)
    whole = [
        {
            "chosen_ids": row["prompt_ids"] + row["answers"][pair["chosen"]],
            "rejected_ids": row["prompt_ids"] + row["answers"][pair["rejected"]],
            "margin": pair["margin"],
        }
        for row in rows
        for pair in row["pairs"]
    ]
    theirs = Trl(
        model=classifier,
        args=quiet_config(tmp_path / "theirs", center_rewards_coefficient=0.01),
        train_dataset=Dataset.from_list(whole),
        processing_class=backbone.tokenizer,
    )
    theirs_loss = theirs.compute_loss(theirs.model, theirs.data_collator(whole))
    yield loss.detach(), theirs_loss.detach()


def test_hard_votes_and_one_head_give_trls_own_loss(
    parity: tuple[torch.Tensor, torch.Tensor],
) -> None:
    torch.testing.assert_close(*parity, atol=1e-5, rtol=1e-5)


def test_long_examples_are_cut_and_counted_never_dropped(base: Path) -> None:
    plan = replace(tiny_plan(base), max_prompt_tokens=40, max_answer_tokens=6)
    item = demonstrations()[0]
    pairs = [
        Pair(item.prompt, "Yes.", "No.", 0.9, 0.0, 1.0),
        Pair(Prompt("s", "Why?"), item.answer, "No.", 0.9, 0.0, 1.0),
        Pair(Prompt("s", "Why?"), "Yes.", "No.", 0.9, 0.0, 1.0),
    ]
    tokenizer = Backbone.load(base).tokenizer
    rows, counted = tokenised(tokenizer, pairs, plan, torch.ones(2, 3))
    assert sum(len(row["pairs"]) for row in rows) == 3
    assert counted == {"truncated": 2, "answers_cut": 1}
    assert max(len(row["prompt_ids"]) for row in rows) <= 40
    assert rows[1]["answers"][0][-1] == tokenizer.eos_token_id


def test_what_fits_is_read_once_by_the_tokenizer(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Backbone.load(base).tokenizer
    encode, texts = tokenizer.encode, []
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, **more: texts.append(text) or encode(text, **more)
    )
    pair = Pair(Prompt("p", "Why?"), "Because.", "No.", 0.9, 0.0, 1.0)
    tokenised(tokenizer, [pair], tiny_plan(base), torch.ones(1, 1))
    assert len(texts) == 3


def test_an_answer_with_several_votes_is_computed_once(base: Path) -> None:
    plan = replace(tiny_plan(base), micro_batch_size=4)
    prompt, texts = Prompt("p", "Why?"), ("One.", "Two.", "Three.", "Four.")
    pairs = [Pair(prompt, a, b, 0.9, 0.0, 1.0) for a, b in combinations(texts, 2)]
    tokenizer = Backbone.load(base).tokenizer
    [row], _ = tokenised(tokenizer, pairs, plan, torch.ones(1, 6))
    assert row["answers"] == [answer_ids(tokenizer, text) for text in texts]
    assert [(pair["chosen"], pair["rejected"]) for pair in row["pairs"]] == [
        *combinations(range(4), 2)
    ]
    few, _ = tokenised(tokenizer, pairs, replace(plan, micro_batch_size=1), torch.ones(1, 6))
    assert [len(row["answers"]) for row in few] == [2] * 6


def test_a_step_learns_from_as_many_rows_as_the_plan_says(base: Path, tmp_path: Path) -> None:
    """12 rows of two answers, 4 rows a step, at most 3 at once."""
    stage = reward_stage(tmp_path, base, epochs=1.0)
    stage.plan = replace(stage.plan, micro_batch_size=6)
    assert learn(stage, comparisons()).figures["steps"] == 3


def test_rows_with_fewer_answers_are_filled_up_and_keep_their_places(base: Path) -> None:
    plan = replace(tiny_plan(base), micro_batch_size=8)
    first, second = Prompt("p", "Why?"), Prompt("q", "Who?")
    pairs = [
        Pair(first, "One.", "Two.", 0.9, 0.0, 1.0),
        Pair(second, "A.", "B.", 0.9, 0.0, 1.0),
        Pair(second, "C.", "A.", 0.9, 0.0, 1.0),
    ]
    backbone = Backbone.load(base)
    rows, _ = tokenised(backbone.tokenizer, pairs, plan, torch.ones(1, 3))
    batch = PairCollator(backbone.pad_id)(rows)
    for side, texts in (("chosen", ("One.", "A.", "C.")), ("rejected", ("Two.", "B.", "A."))):
        for place, text in zip(batch[side].tolist(), texts, strict=True):
            ids = batch["answers"][place][batch["answer_mask"][place].bool()].tolist()
            assert ids == answer_ids(backbone.tokenizer, text)


@pytest.fixture(scope="module")
def last(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = reward_stage(tmp_path_factory.mktemp("last") / "run", base)
    learn(stage, comparisons())
    return stage.path


def test_a_cycle_starts_from_the_last_heads_and_adapter(
    base: Path, last: Path, tmp_path: Path
) -> None:
    stage = reward_stage(tmp_path, base, warm_start=str(last), epochs=0.0, learning_rate=0.0)
    beginning = warm_start(stage.plan, Backbone.load(base))
    assert beginning.refused == ""
    _, weights = read_adapter(last / "adapter")
    assert torch.equal(beginning.adapters[0][1][SCORE_KEY], weights[SCORE_KEY])


def test_a_cycle_that_changes_nothing_keeps_it(base: Path, last: Path, tmp_path: Path) -> None:
    stage = reward_stage(tmp_path, base, warm_start=str(last), learning_rate=0.0)
    report = learn(stage, comparisons())
    assert report.figures["warm_started"] is True
    name = "adapter_model.safetensors"
    assert sha256_of(stage.path / "adapter" / name) == sha256_of(last / "adapter" / name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"heads": 2}, "3 heads over 1 adapters, the plan 2 over 1"),
        ({"separate_adapters": True}, "3 heads over 1 adapters, the plan 3 over 3"),
        ({"depth": 1.0}, "it reads after layer 1, the plan after layer 2"),
    ],
)
def test_a_last_model_of_another_shape_is_refused_with_the_reason(
    base: Path, last: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    stage = reward_stage(tmp_path, base, warm_start=str(last), **changes)
    report = learn(stage, comparisons())
    assert report.figures["warm_started"] is False
    assert reason in report.figures["warm_start_refused"]


def test_a_last_model_of_another_rank_base_or_a_missing_folder_is_refused(
    base: Path, last: Path, tmp_path: Path
) -> None:
    plan = reward_stage(tmp_path / "run", base, warm_start=str(last)).plan
    backbone = Backbone.load(base)
    ranked = replace(plan, lora=LoraPlan(rank=8, alpha=8))
    assert warm_start(ranked, backbone).refused == "its r is 4, the plan's 8"
    other = replace(plan, base=str(tiny_base(tmp_path / "other", seed=1)))
    assert "another base policy" in warm_start(other, backbone).refused
    gone = replace(plan, reward_model=replace(plan.reward_model, warm_start=str(tmp_path)))
    assert "cannot be read" in warm_start(gone, backbone).refused


def test_a_last_model_that_read_otherwise_is_refused(
    base: Path, last: Path, tmp_path: Path
) -> None:
    """Earlier versions did not say how many layers they read."""
    old = Path(shutil.copytree(last, tmp_path / "old"))
    scale = json.loads((old / "scale.json").read_text())
    del scale["layers"]
    (old / "scale.json").write_text(json.dumps(scale))
    plan = reward_stage(tmp_path / "run", base, warm_start=str(old)).plan
    backbone = Backbone.load(base)
    assert "in a way that is no longer known" in warm_start(plan, backbone).refused
    with pytest.raises(PolicyVersionError, match="start a new run"):
        RewardModel(backbone, old)


def test_only_top_layers_are_those_under_the_reading(base: Path, tmp_path: Path) -> None:
    """The SFT policy's adapter has the second layer; answers are read after the first one."""
    plan = replace(tiny_plan(base), lora=LoraPlan(rank=4, alpha=8, top_layers=1))
    run = RunFolder.create(tmp_path, plan)
    backbone = Backbone.load(base)
    backbone.new_adapter("sft", plan.lora)
    for parameter in backbone.adapter_parameters("sft"):
        torch.nn.init.normal_(parameter)
    backbone.save_adapter("sft", run.stage_path("sft") / "adapter")
    stage = Stage("reward_model", run, plan, "float32")
    stage.path.mkdir()
    learn(stage, comparisons())
    _, weights = read_adapter(stage.path / "adapter")
    assert {name.split(".layers.")[1][0] for name in weights if "layers" in name} == {"0"}
    learnt = [value for name, value in weights.items() if "lora_B" in name]
    assert 0 < max(float(value.abs().max()) for value in learnt) < 0.1, "begun anew, and trained"


def test_the_temperature_is_kept_with_the_scale(base: Path, tmp_path: Path) -> None:
    stage = reward_stage(tmp_path, base)
    report = learn(stage, comparisons())
    scale = Scale.read(stage.path)
    assert scale.temperature == report.figures["temperature"] != 1.0
    assert len(scale.means) == len(scale.deviations) == 3
