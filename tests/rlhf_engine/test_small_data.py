"""PPO where there is hardly anything to learn from: each case has a defined end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf_engine.errors import TrainingError
from rlhf_engine.records import SignalInput
from rlhf_engine.signals import READ_AT_ONCE
from tests.rlhf_engine.ppo_runs import (
    PROMPTS,
    bare_ppo,
    batches,
    decided_base,
    flat_critic,
    mean_token,
    policy_bytes,
    rollouts_of,
)
from tests.tiny import tiny_base

END, SOME_TOKEN = 2, 70


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def assert_all_finite(rows: Sequence[dict[str, float]]) -> None:
    assert rows
    for row in rows:
        assert all(math.isfinite(value) for value in row.values()), row


def test_one_prompt_is_asked_again_and_answered_anew(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, prompts=PROMPTS[:1])
    drawn = rollouts_of(ppo)
    report = ppo.run()
    assert report.figures["batches"] == len(batches(ppo)) == 3
    answers = [answer for rollout in drawn for answer in rollout.answers.values()]
    assert {answer.prompt_id for answer in answers} == {PROMPTS[0].id}
    assert len({answer.token_ids for answer in answers}) == len(answers) == 12
    assert_all_finite(batches(ppo))


def test_a_batch_larger_than_the_prompt_set_walks_through_it_evenly(
    base: Path, tmp_path: Path
) -> None:
    changes = {"rollout_size": 8, "answers_per_prompt": 1, "minibatch_size": 4}
    ppo = bare_ppo(tmp_path / "run", base, prompts=PROMPTS[:3], **changes)
    drawn = rollouts_of(ppo)
    ppo.run()
    asked = [Counter(a.prompt_id for a in rollout.answers.values()) for rollout in drawn]
    assert all(2 <= times <= 4 for each in asked for times in each.values())
    assert set(sum(asked, Counter()).values()) == {8}


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_answers_that_are_all_empty_are_learned_from(
    base: Path, tmp_path: Path, algorithm: str
) -> None:
    silent = decided_base(base, tmp_path / "base", END)
    ppo = bare_ppo(tmp_path / "run", silent, algorithm=algorithm)
    drawn = rollouts_of(ppo)
    report = ppo.run()
    answers = [answer for rollout in drawn for answer in rollout.answers.values()]
    assert {(a.text, a.token_ids, a.finish_reason) for a in answers} == {("", (END,), "stop")}
    assert report.figures["length/mean_last"] == 1
    assert_all_finite(batches(ppo))


def test_answers_all_the_same_and_all_cut_off_teach_rloo_nothing(
    base: Path, tmp_path: Path
) -> None:
    stubborn = decided_base(base, tmp_path / "base", SOME_TOKEN)
    ppo = bare_ppo(tmp_path / "run", stubborn, algorithm="rloo", normalise_rewards=False)
    drawn, before = rollouts_of(ppo), policy_bytes(ppo)
    ppo.run()
    answers = [answer for rollout in drawn for answer in rollout.answers.values()]
    assert {(a.token_ids, a.finish_reason) for a in answers} == {((SOME_TOKEN,) * 6, "length")}
    assert policy_bytes(ppo) == before
    for row in batches(ppo):
        assert row["ended/share"] == 0
        assert row["objective/reward"] == pytest.approx(row["objective/score"] - 1)


def test_answers_all_cut_off_are_learned_from_at_their_last_token(
    base: Path, tmp_path: Path
) -> None:
    endless = decided_base(base, tmp_path / "base", END, logit=-30)
    ppo = bare_ppo(tmp_path / "run", endless)
    drawn, before = rollouts_of(ppo), policy_bytes(ppo)
    ppo.run()
    assert all(bool(part.mask.all()) for rollout in drawn for part in rollout.parts)
    assert [row["length/mean"] for row in batches(ppo)] == [6, 6, 6]
    assert policy_bytes(ppo) != before
    assert_all_finite(batches(ppo))


@pytest.mark.parametrize(("reward", "g"), [(0.3, 2), (-2.7, 3), (0.1, 4)])
def test_a_constant_reward_does_not_move_rloo(
    base: Path, tmp_path: Path, reward: float, g: int
) -> None:
    sizes = {"answers_per_prompt": g, "rollout_size": 2 * g, "minibatch_size": g}
    ppo = bare_ppo(
        tmp_path / "run",
        base,
        lambda _: reward,
        algorithm="rloo",
        missing_eos_penalty=0.0,
        **sizes,
    )
    before = policy_bytes(ppo)
    ppo.run()
    assert policy_bytes(ppo) == before
    assert [row["objective/kl"] for row in batches(ppo)] == [0, 0, 0]
    assert_all_finite(batches(ppo))


def test_a_constant_reward_that_the_critic_knows_does_not_move_ppo(
    base: Path, tmp_path: Path
) -> None:
    ppo = bare_ppo(
        tmp_path / "run",
        base,
        lambda _: 0.5,
        critic=flat_critic(0.5),
        normalise_rewards=False,
        missing_eos_penalty=0.0,
    )
    drawn, before = rollouts_of(ppo), policy_bytes(ppo)
    ppo.run()
    assert not any(part.advantages.any() for rollout in drawn for part in rollout.parts)
    assert policy_bytes(ppo) == before
    assert_all_finite(batches(ppo))


def test_a_constant_reward_that_the_critic_must_learn_is_learned(
    base: Path, tmp_path: Path
) -> None:
    ppo = bare_ppo(
        tmp_path / "run",
        base,
        lambda _: 0.5,
        normalise_rewards=False,
        missing_eos_penalty=0.0,
        critic_learning_rate=0.1,
    )
    ppo.run()
    losses = [row["loss/value"] for row in batches(ppo)]
    assert losses[-1] < 0.2 * losses[0]
    assert_all_finite(batches(ppo))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_stops_before_anything_is_learned_from_it(
    base: Path, tmp_path: Path, bad: float
) -> None:
    scored = 0

    def breaks_in_the_third_batch(tokens: list[int]) -> float:
        nonlocal scored
        scored += 1
        return bad if scored == 10 else mean_token(tokens)

    whole = bare_ppo(tmp_path / "whole", base)
    whole.run()
    broken = bare_ppo(tmp_path / "run", base, breaks_in_the_third_batch)
    with pytest.raises(TrainingError, match=r"reward is not finite.*train it again"):
        broken.run()
    assert [row["batch"] for row in batches(broken)] == [0, 1]
    mended = bare_ppo(tmp_path / "run", base)
    mended.run()
    assert policy_bytes(mended) == policy_bytes(whole)
    assert batches(mended) == batches(whole)


class Abstains:
    """A reward signal that never says anything."""

    name, weight = "silent", 0.5

    def read_batch(self, batch: Sequence[SignalInput]) -> list[float | None]:
        return [None for _ in batch]


def test_a_signal_that_always_abstains_changes_nothing(base: Path, tmp_path: Path) -> None:
    without = bare_ppo(tmp_path / "without", base)
    without.run()
    beside = bare_ppo(tmp_path / "beside", base, signals=[Abstains()])
    beside.run()
    assert [row["reward/silent"] for row in batches(beside)] == [0, 0, 0]
    assert [row["abstained/silent"] for row in batches(beside)] == [1, 1, 1]
    assert policy_bytes(beside) == policy_bytes(without)


class Counts:
    """A reward signal that reads an answer's length, and notes how many it is given at once."""

    name, weight = "length", 0.5

    def __init__(self) -> None:
        self.calls: list[int] = []

    def read_batch(self, batch: Sequence[SignalInput]) -> list[float | None]:
        self.calls.append(len(batch))
        return [min(len(item.answer) / 100, 1.0) for item in batch]


def test_a_signal_reads_a_large_rollout_in_as_many_calls_as_it_needs(
    base: Path, tmp_path: Path
) -> None:
    signal, size = Counts(), 2 * READ_AT_ONCE + 8
    ppo = bare_ppo(
        tmp_path / "run", base, signals=[signal], rollout_batches=1, rollout_size=size, epochs=0
    )
    rollout = ppo.rollouts.draw(0, ppo.critic, 0.0, ppo.scale, lambda _: None)
    assert signal.calls == [READ_AT_ONCE, READ_AT_ONCE, 8]
    read = rollout.readings["reward/length"]
    assert read == {
        place: min(len(answer.text) / 100, 1.0) for place, answer in rollout.answers.items()
    }
    assert len(set(read.values())) > 1


def test_a_minibatch_larger_than_the_rollout_is_one_step_an_epoch(
    base: Path, tmp_path: Path
) -> None:
    ppo = bare_ppo(tmp_path / "run", base, minibatch_size=64, early_stop_kl=100.0)
    drawn = rollouts_of(ppo)
    ppo.run()
    assert [len(rollout.minibatches) for rollout in drawn] == [1, 1, 1]
    assert [row["policy/steps"] for row in batches(ppo)] == [2, 2, 2]


def test_one_answer_a_prompt_is_enough(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, answers_per_prompt=1)
    drawn, before = rollouts_of(ppo), policy_bytes(ppo)
    ppo.run()
    assert all(part.groups.size == 1 for rollout in drawn for part in rollout.parts)
    assert policy_bytes(ppo) != before
    assert_all_finite(batches(ppo))
