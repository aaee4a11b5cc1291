"""One text, one score: the trainer's path, the stored reward model, and PPO's rollout path."""

from __future__ import annotations

import json
import queue
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from rlhf_engine.backbone import SCORE_KEY, Backbone, read_adapter
from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.pair_rows import LABELS, PairCollator, tokenised
from rlhf_engine.pipeline import train
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.preferences import Pair
from rlhf_engine.records import SamplingSettings
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.reward_model import RewardModel, adapter_folder, adapter_name
from rlhf_engine.reward_training import Scorer
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.torch_engine import Ended, Event, Failed, TorchEngine
from tests.rlhf_engine.runs import comparisons, demonstrations, tiny_plan, tiny_run
from tests.tiny import tiny_base


@pytest.fixture(scope="module", params=["shared adapter", "separate adapters"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("same-score")
    plan = tiny_plan(tiny_base(folder / "base"), stages=("snapshot", "sft", "reward_model"))
    separate = request.param == "separate adapters"
    plan = replace(plan, reward_model=replace(plan.reward_model, separate_adapters=separate))
    run = tiny_run(folder / "run", plan)
    train(run.path)
    return run


def pairs() -> list[Pair]:
    """The two answers of every comparison of the tiny run."""
    return [Pair(i.prompt, i.chosen, i.rejected, 0.9, 0.0, 1.0) for i in comparisons()]


def trainer_scores(run: RunFolder, model: RewardModel) -> torch.Tensor:
    """Raw scores [k, 2n] as the trainer computes them: its rows, its collator, its module."""
    found = []
    for number in range(model.scale.adapters):
        _, weights = read_adapter(adapter_folder(run.stage_path("reward_model"), number))
        heads = weights[SCORE_KEY]
        rows, _ = tokenised(
            model.backbone.tokenizer, pairs(), run.plan(), torch.ones(len(heads), len(pairs()))
        )
        batch = PairCollator(model.backbone.pad_id)(rows)
        with model.backbone.using(adapter_name(number)), torch.inference_mode():
            inputs = {name: value for name, value in batch.items() if name not in LABELS}
            scores = Scorer(model.backbone, heads, model.scale.layers)(**inputs)
        both = torch.stack([batch["chosen"], batch["rejected"]], dim=1).flatten()
        found.append(scores[:, both])
    return torch.cat(found)


def classifier_scores(run: RunFolder, number: int) -> torch.Tensor:
    """Raw scores [2n, k] of one adapter as PEFT and transformers read its folder, without any
    code of this engine's but the renderer: whole sequences, padded right, a base policy of as
    many layers as scale.json says, one label a head, which classifies the answer's mean state."""
    plan = run.plan()
    tokenizer = load_tokenizer(Path(plan.base))
    folder = adapter_folder(run.stage_path("reward_model"), number)
    heads = len(read_adapter(folder)[1][SCORE_KEY])
    scale = json.loads((run.stage_path("reward_model") / "scale.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(
        plan.base, num_labels=heads, num_hidden_layers=scale["layers"], dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    wrapped = PeftModel.from_pretrained(model, folder).eval()
    texts = [
        (
            prompt_ids(tokenizer, pair.prompt, plan.max_prompt_tokens),
            answer_ids(tokenizer, text, plan.max_answer_tokens),
        )
        for pair in pairs()
        for text in (pair.chosen, pair.rejected)
    ]
    width = max(len(prompt + answer) for prompt, answer in texts)
    whole = [prompt + answer for prompt, answer in texts]
    ids = torch.tensor([text + [tokenizer.pad_token_id] * (width - len(text)) for text in whole])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in whole])
    with torch.inference_mode():
        read = wrapped(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        means = [
            states[len(prompt) : len(prompt) + len(answer)].mean(dim=0)
            for states, (prompt, answer) in zip(read.hidden_states[-1], texts, strict=True)
        ]
        scores: torch.Tensor = wrapped.base_model.model.score(torch.stack(means))
    return scores


def test_a_text_gets_the_same_score_on_every_path(trained: RunFolder) -> None:
    plan, folder = trained.plan(), trained.stage_path("reward_model")
    backbone = Backbone.load(Path(plan.base))
    model = RewardModel(backbone, folder)
    prompts = [item.prompt for item in comparisons()]
    answers = [text for item in comparisons() for text in (item.chosen, item.rejected)]
    each = [prompt for prompt in prompts for _ in range(2)]
    expected = torch.cat(
        [classifier_scores(trained, number).T for number in range(model.scale.adapters)]
    )
    expected = (expected - model.mean) / model.deviation
    assert expected.shape == (3, len(answers))

    as_rollout = model.scores(
        backbone.group(
            [prompt_ids(backbone.tokenizer, p, plan.max_prompt_tokens) for p in each],
            [answer_ids(backbone.tokenizer, a, plan.max_answer_tokens) for a in answers],
        )
    )
    for scores in (
        (trainer_scores(trained, model) - model.mean) / model.deviation,
        model.text_scores(prompts, answers, plan, at_once=32),
        model.text_scores(each, answers, plan, at_once=1),
        as_rollout,
    ):
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    means = model.score_texts(prompts, answers, plan)
    torch.testing.assert_close(torch.tensor(means), expected.mean(dim=0), atol=1e-4, rtol=1e-4)


def test_a_cut_answer_is_judged_as_its_text_is_scored(trained: RunFolder) -> None:
    plan = trained.plan()
    backbone = Backbone.load(Path(plan.base))
    model = RewardModel(backbone, trained.stage_path("reward_model"))
    prompt = demonstrations()[0].prompt
    text = "the desk on floor three " * plan.max_answer_tokens
    drawn = answer_ids(backbone.tokenizer, text)[: plan.max_answer_tokens]
    assert drawn[-1] != backbone.eos_id
    groups = backbone.group([prompt_ids(backbone.tokenizer, prompt)], [drawn])
    judged = model.judge(groups.ended(backbone.eos_id)).scores
    torch.testing.assert_close(judged, model.text_scores([prompt], [text], plan))
    assert not torch.allclose(judged, model.judge(groups).scores)


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
