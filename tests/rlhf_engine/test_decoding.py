"""Rows that are answered together get what each would get alone, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.decoding import CHUNK, Decoder, Drawn, Reading, Undrawn
from rlhf_engine.errors import GenerationError
from rlhf_engine.exactness import exact_sizes
from rlhf_engine.plan import LoraPlan
from rlhf_engine.records import SamplingSettings
from tests.tiny import tiny_base

WARM = SamplingSettings(temperature=1.0, max_new_tokens=10)
PROMPTS = [
    [5 + (at * step) % 400 for at in range(1, length)]
    for step, length in ((3, 20), (7, 150), (11, 9), (13, 301), (17, 64))
]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def backbone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Backbone:
    made = Backbone.load(tiny_base(tmp_path_factory.mktemp("base")), request.param)
    made.new_adapter("policy", LoraPlan(rank=4))
    drawn = torch.Generator().manual_seed(1)
    for parameter in made.adapter_parameters("policy"):
        parameter.data.copy_(torch.randn(parameter.shape, generator=drawn) * 0.2)
    return made


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def finish(decoder: Decoder) -> None:
    while not decoder.done:
        decoder.step()


def alone(backbone: Backbone, prompt: list[int], seed: int) -> tuple[list[int], list[float]]:
    decoder = Decoder(backbone, "policy")
    (number,) = decoder.admit(prompt, [seed], WARM)
    finish(decoder)
    return decoder.rows[number].tokens, decoder.rows[number].logprobs


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_that_come_and_go_are_as_if_alone_to_the_last_bit(
    backbone: Backbone, threads: int, two_threads: None
) -> None:
    torch.set_num_threads(threads)
    decoder, numbers = Decoder(backbone, "policy"), list[int]()
    for seed, prompt in enumerate(PROMPTS):
        numbers += decoder.admit(prompt, [seed], WARM)
        decoder.step()
        decoder.step()
    assert 1 < len(decoder.active) < len(PROMPTS)
    finish(decoder)
    for seed, (number, prompt) in enumerate(zip(numbers, PROMPTS, strict=True)):
        row = decoder.rows[number]
        assert (row.tokens, row.logprobs) == alone(backbone, prompt, seed)


def test_answers_to_one_prompt_are_those_of_each_seed_alone(backbone: Backbone) -> None:
    decoder = Decoder(backbone, "policy")
    numbers = decoder.admit(PROMPTS[1], [3, 4, 5], WARM)
    finish(decoder)
    found = [decoder.rows[number].tokens for number in numbers]
    assert found == [alone(backbone, PROMPTS[1], seed)[0] for seed in (3, 4, 5)]
    assert len({tuple(tokens) for tokens in found}) == 3


def test_tokens_and_logprobs_are_those_of_a_plain_forward(backbone: Backbone) -> None:
    """Against the whole sequence read at once, without any cache."""
    if backbone.model.dtype != torch.float32:
        pytest.skip("in bfloat16 a cache rounds otherwise than a whole sequence")
    for prompt in PROMPTS:
        tokens, logprobs = alone(backbone, prompt, 9)
        with torch.no_grad(), backbone.using("policy"):
            logits = backbone.model(torch.tensor([prompt + tokens])).logits[0]
        expected = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
        found = expected.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(logprobs), found, atol=2e-4, rtol=0)


def test_a_prompt_is_read_in_chunks_and_others_go_on_meanwhile(backbone: Backbone) -> None:
    decoder = Decoder(backbone, "policy")
    (first,) = decoder.admit(PROMPTS[0], [0], WARM)
    reading, advances = Reading(backbone, "policy", PROMPTS[3]), 0
    while not reading.done:
        reading.advance()
        decoder.step()
        advances += 1
    assert advances == -(-len(PROMPTS[3]) // CHUNK) == 3
    (second,) = decoder.join(reading, [1], WARM)
    finish(decoder)
    assert decoder.rows[first].tokens == alone(backbone, PROMPTS[0], 0)[0]
    assert decoder.rows[second].tokens == alone(backbone, PROMPTS[3], 1)[0]


def test_a_row_that_is_ended_leaves_the_others_as_they_were(backbone: Backbone) -> None:
    decoder = Decoder(backbone, "policy")
    numbers = [decoder.admit(prompt, [seed], WARM)[0] for seed, prompt in enumerate(PROMPTS)]
    decoder.step()
    decoder.end(numbers[0])
    decoder.forget(numbers[3])
    finish(decoder)
    assert len(decoder.rows[numbers[0]].tokens) == 1
    assert numbers[3] not in decoder.rows
    for seed in (1, 2, 4):
        assert decoder.rows[numbers[seed]].tokens == alone(backbone, PROMPTS[seed], seed)[0]


def test_a_row_that_cannot_be_drawn_ends_alone(tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_base(tmp_path))
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[571] = float("nan")
    expected = decode_alone(backbone, PROMPTS[0])
    decoder = Decoder(backbone, None)
    (damaged,) = decoder.admit([5, 571], [0], WARM)
    (sound,) = decoder.admit(PROMPTS[0], [0], WARM)
    first, second = decoder.draw()
    assert isinstance(first, Undrawn)
    assert first.row == damaged
    assert isinstance(first.error, GenerationError)
    assert isinstance(second, Drawn)
    assert decoder.active == [sound]
    decoder.advance()
    finish(decoder)
    assert decoder.rows[sound].tokens == expected

    decoder.admit([5, 571], [0], WARM)
    with pytest.raises(GenerationError, match="not finite"):
        decoder.step()


def decode_alone(backbone: Backbone, prompt: list[int]) -> list[int]:
    decoder = Decoder(backbone, None)
    (number,) = decoder.admit(prompt, [0], WARM)
    finish(decoder)
    return decoder.rows[number].tokens


def test_each_row_has_settings_of_its_own(backbone: Backbone) -> None:
    decoder = Decoder(backbone, "policy", plain=True)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=3, top_logprobs=4)
    (short,) = decoder.admit(PROMPTS[0], [0], greedy)
    (long,) = decoder.admit(PROMPTS[0], [0], WARM)
    drawn = [item for _ in range(3) for item in decoder.step()]
    assert len(decoder.rows[short].tokens) == 3
    assert decoder.active == [long]
    for item in drawn:
        if item.row == short:
            assert item.plain == pytest.approx(item.logprob)
            assert item.top[0].token_id == item.token_id
            assert item.top[0].logprob == pytest.approx(item.plain)
            assert [each.logprob for each in item.top] == sorted(
                (each.logprob for each in item.top), reverse=True
            )
        else:
            assert item.plain == pytest.approx(item.logprob)
            assert item.top == ()


def test_plain_logprobs_are_those_at_temperature_1(backbone: Backbone) -> None:
    cold = SamplingSettings(temperature=0.5, max_new_tokens=4)
    one = Decoder(backbone, "policy", plain=True)
    one.admit(PROMPTS[2], [1], cold)
    item = one.step()[0]
    warm = Decoder(backbone, "policy")
    reading = Reading(backbone, "policy", PROMPTS[2])
    reading.advance()
    warm.join(reading, [1], WARM)
    expected = float(reading.logits.log_softmax(dim=-1)[0, item.token_id])
    assert item.plain == pytest.approx(expected)
    assert item.logprob != pytest.approx(expected)


def test_all_sizes_that_count_as_exact_are(backbone: Backbone) -> None:
    sizes = exact_sizes(backbone, 3)
    assert sizes[-1] == 16
    weight = backbone.model.get_output_embeddings().weight
    rows = torch.randn(16, weight.shape[1]).to(weight.dtype)
    for size in sizes:
        whole = torch.nn.functional.linear(rows, weight)
        assert torch.equal(torch.nn.functional.linear(rows[:size], weight), whole[:size])
    assert exact_sizes(backbone, 40)[-1] == 40


def test_a_prompt_that_is_not_read_cannot_be_answered(backbone: Backbone) -> None:
    decoder = Decoder(backbone, "policy")
    reading = Reading(backbone, "policy", PROMPTS[0])
    with pytest.raises(GenerationError, match="prompt that is read"):
        decoder.join(reading, [1], WARM)


def test_memory_is_free_when_all_rows_have_ended(backbone: Backbone) -> None:
    decoder = Decoder(backbone, "policy")
    decoder.admit(PROMPTS[0], [1, 2], WARM)
    finish(decoder)
    assert decoder._cache is None
    (again,) = decoder.admit(PROMPTS[4], [7], WARM)
    finish(decoder)
    assert decoder.rows[again].tokens == alone(backbone, PROMPTS[4], 7)[0]


def test_a_base_without_keys_and_values_is_named(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from rlhf_engine.errors import BasePolicyError
    from rlhf_engine.slot_cache import SlotCache

    cache = SlotCache(torch.float32)
    prompt = SimpleNamespace(layers=[object()], get_seq_length=lambda: 3)
    with pytest.raises(BasePolicyError, match="choose one whose layers all attend"):
        cache.join(prompt, 1)  # type: ignore[arg-type]
