"""One text, one score: the trainer's path, the stored reward model, and PPO's rollout path."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from trl.trainer.reward_trainer import DataCollatorForPreference

from rlhf_engine.backbone import SCORE_KEY, Backbone, read_adapter
from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.pipeline import train
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.records import SamplingSettings
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.reward_model import RewardModel, ScoreHead, tokenised
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.torch_engine import Ended, Event, Failed, TorchEngine
from tests.rlhf_engine.runs import comparisons, demonstrations, tiny_plan, tiny_run
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("same-score")
    plan = tiny_plan(tiny_base(folder / "base"), stages=("snapshot", "sft", "reward_model"))
    run = tiny_run(folder / "run", plan)
    train(run.path)
    return run


def trainer_scores(run: RunFolder) -> torch.Tensor:
    """Scores as RewardTrainer computes them: its collator, padding right, its classifier."""
    plan = run.plan()
    tokenizer = load_tokenizer(Path(plan.base))
    model = AutoModelForSequenceClassification.from_pretrained(
        plan.base, num_labels=1, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    head = ScoreHead(model.score.in_features, 1, bias=False)
    model.score = head
    adapter = run.stage_path("reward_model") / "adapter"
    wrapped = PeftModel.from_pretrained(model, adapter).eval()
    _, weights = read_adapter(adapter)
    stored = wrapped.base_model.model.score.modules_to_save["default"].weight
    torch.testing.assert_close(stored, weights[SCORE_KEY])
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(
        tokenised(tokenizer, comparisons(), plan)
    )
    with torch.inference_mode():
        logits = wrapped(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
    scores: torch.Tensor = logits.squeeze(-1)
    return scores


def test_a_text_gets_the_same_score_on_every_path(trained: RunFolder) -> None:
    plan = trained.plan()
    backbone = Backbone.load(Path(plan.base))
    model = RewardModel(backbone, trained.stage_path("reward_model"))
    pairs = comparisons()
    answers = [item.chosen for item in pairs] + [item.rejected for item in pairs]
    prompts = [item.prompt for item in pairs] * 2
    raw = (trainer_scores(trained) - model.mean) / model.deviation

    together = torch.tensor(model.score_texts(prompts, answers, plan, batch_size=32))
    alone = torch.tensor(model.score_texts(prompts, answers, plan, batch_size=1))
    as_rollout = model.scores(
        backbone.group(
            [prompt_ids(backbone.tokenizer, p, plan.max_prompt_tokens) for p in prompts],
            [answer_ids(backbone.tokenizer, a, plan.max_answer_tokens) for a in answers],
        )
    ).mean(dim=0)
    for scores in (together, alone, as_rollout):
        torch.testing.assert_close(scores, raw, atol=1e-4, rtol=1e-4)


def test_the_score_does_not_depend_on_the_pad_token_count(trained: RunFolder) -> None:
    plan = trained.plan()
    backbone = Backbone.load(Path(plan.base))
    model = RewardModel(backbone, trained.stage_path("reward_model"))
    item = demonstrations()[0]
    prompt = prompt_ids(backbone.tokenizer, item.prompt)
    short = answer_ids(backbone.tokenizer, "Yes.")
    beside_long = backbone.group([prompt, prompt * 2], [short, short * 9])
    alone = backbone.group([prompt], [short])
    torch.testing.assert_close(model.scores(beside_long)[:, 0], model.scores(alone)[:, 0])


def test_serving_renders_the_prompt_that_training_rendered(
    trained: RunFolder, tmp_path: Path
) -> None:
    """A greedy answer in service equals one decoded from the training renderer's ids."""
    plan = trained.plan()
    version_0 = PolicyVersionFolder.store(None, Path(plan.base), tmp_path, {})
    engine = TorchEngine(Path(plan.base), dtype="float32", threads=1)
    engine.start()
    prompt = demonstrations()[0].prompt
    events: queue.Queue[Event] = queue.Queue()
    try:
        engine.load(version_0)
        settings = SamplingSettings(temperature=0, max_new_tokens=12)
        engine.submit(
            version_0.id,
            prompt,
            [0],
            settings,
            events.put,
            max_prompt_tokens=plan.max_prompt_tokens,
        )
        while not isinstance(event := events.get(timeout=60), Ended):
            assert not isinstance(event, Failed), event
    finally:
        engine.stop(1)
    backbone = Backbone.load(Path(plan.base))
    ids = prompt_ids(backbone.tokenizer, prompt, plan.max_prompt_tokens)
    expected: list[int] = []
    with torch.inference_mode():
        for _ in range(12):
            logits = backbone.model(torch.tensor([ids + expected])).logits[0, -1]
            expected.append(int(logits.argmax()))
            if expected[-1] == backbone.eos_id:
                break
    assert list(event.answer.token_ids) == expected
