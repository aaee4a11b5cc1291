"""Answers that share their prompt's computation read as if each were alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from rlhf_engine.backbone import Backbone, group_answers
from rlhf_engine.decoding import Decoder
from rlhf_engine.generation import generate
from rlhf_engine.plan import LoraPlan
from rlhf_engine.records import SamplingSettings
from rlhf_engine.render import prompt_ids
from tests.rlhf_engine.runs import demonstrations
from tests.tiny import tiny_base

PROMPTS = ([1, 40, 41, 42, 43, 44], [1, 50, 51])
ANSWERS = ([60, 61, 2], [62, 2], [63, 64, 65, 2], [])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    loaded = Backbone.load(tiny_base(tmp_path_factory.mktemp("base")))
    loaded.new_adapter("policy", LoraPlan(rank=2, alpha=4))
    generator = torch.Generator().manual_seed(4)
    for parameter in loaded.adapter_parameters("policy"):
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return loaded


def alone(backbone: Backbone, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Logits of one unpadded sequence at its answer's positions, [t, v]."""
    logits: torch.Tensor = backbone.model(torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(answer) - 1]


def test_grouped_logits_equal_those_of_each_sequence_alone(backbone: Backbone) -> None:
    groups = backbone.group(PROMPTS, ANSWERS)
    with backbone.using("policy"), torch.no_grad():
        logits = backbone.logits(groups)
        for row, answer in enumerate(ANSWERS):
            expected = alone(backbone, PROMPTS[row // 2], answer)
            torch.testing.assert_close(logits[row, : len(answer)], expected, atol=1e-4, rtol=1e-4)


def test_the_state_after_the_last_token_is_at_the_answers_length(backbone: Backbone) -> None:
    groups = backbone.group(PROMPTS, ANSWERS)
    with backbone.using("policy"), torch.no_grad():
        states = backbone.states(groups)
        for row, length in enumerate(groups.lengths.tolist()):
            ids = torch.tensor([PROMPTS[row // 2] + ANSWERS[row]])
            expected = backbone.model.base_model(ids).last_hidden_state[0, -1]
            torch.testing.assert_close(states[row, length], expected, atol=1e-4, rtol=1e-4)


def test_the_first_layers_are_those_of_a_policy_with_no_others(backbone: Backbone) -> None:
    groups = backbone.group(PROMPTS, ANSWERS)
    with backbone.using("policy"), torch.no_grad():
        states = backbone.states(groups, 1)
        for row, answer in enumerate(ANSWERS):
            ids = torch.tensor([PROMPTS[row // 2] + answer])
            after_first = backbone.model.base_model(ids, output_hidden_states=True).hidden_states[1]
            expected = backbone.model.base_model.norm(after_first)[0, -1]
            torch.testing.assert_close(states[row, len(answer)], expected, atol=1e-4, rtol=1e-4)
        whole = backbone.states(groups)
        assert not torch.allclose(whole, states)
        torch.testing.assert_close(whole, backbone.states(groups, 2))


def test_gradients_reach_the_shared_prompt_as_often_as_it_is_read(backbone: Backbone) -> None:
    parameters = backbone.adapter_parameters("policy")

    def gradients(batches: list[tuple[list[list[int]], list[list[int]]]]) -> list[torch.Tensor]:
        with backbone.using("policy", trainable=True):
            total = torch.zeros(())
            for prompts, answers in batches:
                groups = backbone.group(prompts, answers)
                total = total + (backbone.logits(groups) * groups.answer_mask.unsqueeze(-1)).sum()
        return list(torch.autograd.grad(total, parameters))

    together = gradients([(list(PROMPTS), list(ANSWERS))])
    apart = gradients([([PROMPTS[row // 2]], [answer]) for row, answer in enumerate(ANSWERS)])
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_prompt_of_one_token_has_no_cache_to_start_from(backbone: Backbone) -> None:
    groups = backbone.group([[1]], [[60, 2], [61, 2]])
    with backbone.using("policy"), torch.no_grad():
        expected = alone(backbone, [1], [61, 2])
        torch.testing.assert_close(backbone.logits(groups)[1], expected, atol=1e-4, rtol=1e-4)


def test_answers_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ValueError, match="3 answers cannot be shared out to 2 prompts"):
        group_answers(PROMPTS, ANSWERS[:3], pad_id=0)


def drawn_alone(
    backbone: Backbone, ids: list[int], seed: int, settings: SamplingSettings
) -> list[int]:
    """The tokens of one answer when nothing else is answered."""
    decoder = Decoder(backbone, "policy")
    (row,) = decoder.admit(ids, [seed], settings)
    while not decoder.done:
        decoder.step()
    return decoder.rows[row].tokens


@pytest.mark.parametrize("batch_size", [1, 4, 6, 64])
def test_answers_are_drawn_as_if_each_were_alone(
    backbone: Backbone, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are drawn at once, and whoever joined whose batch when rows had ended."""
    prompts = [item.prompt for item in demonstrations()[:8]]
    settings = SamplingSettings(temperature=1.0, max_new_tokens=12)
    seeds = list(range(16))
    # A random policy hardly ever ends an answer: let a token that it often draws end them.
    drawn = generate(backbone, "policy", prompts, seeds, settings, max_prompt_tokens=128)
    often = Counter(token for answer in drawn for token in answer.token_ids).most_common(1)[0][0]
    monkeypatch.setattr(backbone, "eos_id", often)
    heard: list[int] = []
    together = generate(
        backbone,
        "policy",
        prompts,
        seeds,
        settings,
        max_prompt_tokens=128,
        batch_size=batch_size,
        on_answers=heard.append,
    )
    assert len({len(answer.token_ids) for answer in together}) > 1
    assert heard[-1] == 16
    assert heard == sorted(heard)
    for at, answer in enumerate(together):
        ids = prompt_ids(backbone.tokenizer, prompts[at // 2], 128)
        assert list(answer.token_ids) == drawn_alone(backbone, ids, seeds[at], settings)
        assert answer.prompt_id == prompts[at // 2].id
        assert answer.seed == seeds[at]
