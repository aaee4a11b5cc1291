"""What PPO's loop steps, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.critic import Critic
from rlhf_engine.plan import LoraPlan
from rlhf_engine.ppo import Ppo
from rlhf_engine.ppo_metrics import STEP_KEYS
from rlhf_engine.reward_model import Judgement
from tests.rlhf_engine.ppo_runs import bare_ppo, batches, policy_bytes, rollouts_of
from tests.tiny import tiny_base

FOUR_STEPS = {"rollout_batches": 1, "rollout_size": 8, "minibatch_size": 4, "early_stop_kl": 100.0}
"""Two epochs of two minibatches."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def counted_steps(optimizer: torch.optim.Optimizer) -> list[int]:
    """Grows by one each time that the optimizer steps."""
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    return steps


def figures_of_steps(ppo: Ppo) -> list[dict[str, float]]:
    """What each minibatch of a policy step measured, in turn."""
    seen: list[dict[str, float]] = []
    step = ppo._policy_gradient

    def recorded(*arguments: Any) -> dict[str, float]:
        seen.append(step(*arguments))
        return seen[-1]

    ppo._policy_gradient = recorded  # type: ignore[method-assign]
    return seen


def test_there_is_a_step_for_each_minibatch_of_each_epoch(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **FOUR_STEPS, epochs=3, critic_epochs=5)
    drawn = rollouts_of(ppo)
    policy, critic = counted_steps(ppo.optimizer), counted_steps(ppo.critic_optimizer)
    ppo.run()
    assert len(drawn[0].minibatches) == 2
    assert len(policy) == 3 * 2 == batches(ppo)[0]["policy/steps"]
    assert len(critic) == 5 * 2
    places = sorted(place for part in drawn[0].parts for place in part.places)
    assert places == list(range(8))


def test_the_second_minibatch_sees_the_policy_that_the_first_one_moved(
    base: Path, tmp_path: Path
) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **FOUR_STEPS)
    steps = figures_of_steps(ppo)
    ppo.run()
    assert steps[0]["policy/ratio_error"] == 0
    assert steps[1]["policy/ratio_error"] > 1e-3
    assert len(steps) == 4


def test_minibatches_in_parts_step_as_whole_ones_do(base: Path, tmp_path: Path) -> None:
    """Four prompts at once or one by one: the gradient is that of all tokens alike."""
    whole = bare_ppo(tmp_path / "whole", base, rollout_size=8, minibatch_size=8)
    parted = bare_ppo(tmp_path / "parted", base, rollout_size=8, minibatch_size=8)
    for ppo, at_once in ((whole, 8), (parted, 2)):
        object.__setattr__(ppo.plan, "micro_batch_size", at_once)
        drawn = rollouts_of(ppo)
        ppo.run()
        assert len(drawn[0].minibatches[0]) == 8 // at_once
    for one, other in zip(whole.parameters, parted.parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("limit", [1e-4, 0.02])
def test_a_policy_far_from_the_answers_takes_no_further_step_on_them(
    base: Path, tmp_path: Path, limit: float
) -> None:
    changes = {**FOUR_STEPS, "minibatch_size": 2, "epochs": 5, "learning_rate": 0.02}
    ppo = bare_ppo(tmp_path / "run", base, **changes | {"early_stop_kl": limit})
    taken, measured = counted_steps(ppo.optimizer), figures_of_steps(ppo)
    ppo.run()
    apart = [each["policy/approx_kl"] for each in measured]
    assert apart[0] == 0
    assert max(apart[:-1]) <= limit < apart[-1]
    [row] = batches(ppo)
    assert len(taken) == row["policy/steps"] == len(apart) - 1
    assert row["policy/approx_kl"] == pytest.approx(sum(apart[:-1]) / len(taken))


def test_a_batch_without_a_step_says_what_forbade_it(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **FOUR_STEPS)
    step = ppo._policy_gradient

    def far_off(*arguments: Any) -> dict[str, float]:
        return step(*arguments) | {"policy/approx_kl": 200.0}

    ppo._policy_gradient = far_off  # type: ignore[method-assign]
    before = policy_bytes(ppo)
    ppo.run()
    [row] = batches(ppo)
    assert (row["policy/steps"], row["policy/approx_kl"]) == (0, 200)
    assert set(STEP_KEYS) <= set(row)
    assert policy_bytes(ppo) == before


def test_a_run_that_ends_epochs_early_resumes_as_if_never_stopped(
    base: Path, tmp_path: Path
) -> None:
    changes = {"early_stop_kl": 0.02, "epochs": 5, "learning_rate": 0.02}
    whole = bare_ppo(tmp_path / "whole", base, **changes)
    whole.run()
    assert {row["policy/steps"] for row in batches(whole)} - {2 * 5}
    cut = bare_ppo(tmp_path / "run", base, **changes)
    draw = cut.rollouts.draw

    def stops(number: int, *arguments: Any) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return draw(number, *arguments)

    cut.rollouts.draw = stops  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    resumed = bare_ppo(tmp_path / "run", base, **changes)
    resumed.run()
    assert policy_bytes(resumed) == policy_bytes(whole)
    assert batches(resumed) == batches(whole)


@pytest.mark.parametrize(("estimator", "key"), [("k1", "objective/kl"), ("k3", "objective/kl_k3")])
def test_the_reward_after_the_penalty_is_what_the_estimator_took(
    base: Path, tmp_path: Path, estimator: str, key: str
) -> None:
    ppo = bare_ppo(tmp_path / "run", base, kl_estimator=estimator, learning_rate=0.05)
    ppo.run()
    row = batches(ppo)[-1]
    assert abs(row["objective/kl"] - row["objective/kl_k3"]) > 0.01
    penalty = row["objective/kl_coefficient"] * row[key]
    assert row["objective/reward"] - row["objective/rlhf_reward"] == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("schedule", "rates"), [("linear", [0.4, 0.3, 0.2, 0.1]), ("constant", [0.4] * 4)]
)
def test_the_policys_learning_rate_falls_in_a_line_and_the_critics_stays(
    base: Path, tmp_path: Path, schedule: str, rates: list[float]
) -> None:
    changes = {"rollout_batches": 4, "learning_rate": 0.4e-3, "learning_rate_schedule": schedule}
    ppo = bare_ppo(tmp_path / "run", base, **changes)
    stepped: list[float] = []
    ppo.optimizer.register_step_pre_hook(
        lambda optimizer, *_: stepped.append(optimizer.param_groups[0]["lr"])
    )
    ppo.run()
    told = [row["policy/learning_rate"] for row in batches(ppo)]
    assert told == pytest.approx([1e-3 * rate for rate in rates])
    assert stepped == [rate for rate in told for _ in range(len(stepped) // len(told))]
    assert ppo.critic_optimizer.param_groups[0]["lr"] == ppo.ppo.critic_learning_rate


def test_progress_counts_answers_drawn_judged_and_learned_from(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, rollout_batches=2, epochs=3, early_stop_kl=1000)
    size, told = ppo.ppo.rollout_size, []
    ppo.stage.tell = lambda step, total, _: told.append((step, total))  # type: ignore[method-assign, misc]
    ppo.run()
    steps = [step for step, _ in told]
    batch = (1 + 1 + 3) * size
    assert {total for _, total in told} == {2 * batch}
    assert steps == sorted(steps)
    for first in (0, batch):
        learnt = [first + (2 + epoch) * size for epoch in (1, 2, 3)]
        assert {first, first + size, first + 2 * size, *learnt} <= set(steps)


def test_while_the_critic_warms_up_the_policy_stays(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, rollout_batches=3, critic_warmup_batches=2)
    start, seen = policy_bytes(ppo), []
    draw = ppo.rollouts.draw

    def recorded(*arguments: Any) -> Any:
        seen.append((policy_bytes(ppo), ppo.critic.weight.detach().clone()))
        return draw(*arguments)

    ppo.rollouts.draw = recorded  # type: ignore[method-assign]
    ppo.run()
    assert [policy for policy, _ in seen] == [start] * 3
    assert policy_bytes(ppo) != start
    assert not torch.equal(seen[0][1], seen[1][1])
    assert ["policy/steps" in row for row in batches(ppo)] == [False, False, True]


class Adapted:
    """A judge with an adapter of its own over the policy's backbone, computed with gradients
    where it is not told otherwise."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        backbone.new_adapter("reward", LoraPlan(rank=2, alpha=4))

    def judge(self, groups: AnswerGroups) -> Judgement:
        with self.backbone.using("reward", trainable=True):
            hidden = self.backbone.states(groups)
        scores = hidden[:, -1, 0]
        return Judgement(scores.unsqueeze(0), torch.zeros_like(scores), hidden[:, :-1])


def test_the_critics_gradient_reaches_neither_policy_nor_reward_model(
    base: Path, tmp_path: Path
) -> None:
    width = 64
    critic = Critic(
        torch.zeros(width), torch.ones(width), torch.full((width,), 0.1), torch.tensor(0.0)
    )
    ppo = bare_ppo(tmp_path / "run", base, critic=critic, epochs=0, rollout_batches=1)
    ppo.rollouts.judge = Adapted(ppo.backbone)
    before = {key: value.clone() for key, value in ppo.backbone.model.state_dict().items()}
    start = critic.weight.detach().clone()
    ppo.run()
    assert not torch.equal(critic.weight, start)
    for name, value in ppo.backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in ppo.backbone.model.parameters())


def test_rloo_has_no_critic_to_teach(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, algorithm="rloo")
    critic = {key: value.clone() for key, value in ppo.critic.state_dict().items()}
    steps, before = counted_steps(ppo.critic_optimizer), policy_bytes(ppo)
    ppo.run()
    assert steps == []
    assert all(torch.equal(value, critic[key]) for key, value in ppo.critic.state_dict().items())
    assert policy_bytes(ppo) != before
    assert not any("loss/value" in row for row in batches(ppo))


def test_an_answer_that_was_cut_is_scored_as_if_it_had_ended(base: Path, tmp_path: Path) -> None:
    """A reward model has only seen answers that end; what it says of others means nothing."""
    read: list[list[int]] = []

    def score(tokens: list[int]) -> float:
        read.append(tokens)
        return 0.0

    ppo = bare_ppo(tmp_path / "run", base, score, rollout_batches=1)
    seen = rollouts_of(ppo)
    ppo.run()
    eos = ppo.rollouts.backbone.eos_id
    answers = list(seen[0].answers.values())
    assert any(answer.finish_reason == "length" for answer in answers)
    assert {tokens[-1] for tokens in read} == {eos}
    drawn = sorted([*answer.token_ids[:-1], eos] for answer in answers)
    assert sorted(read) == drawn


def test_the_reference_never_moves(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base)
    reference = [each.clone() for each in ppo.backbone.adapter_parameters("reference")]
    ppo.run()
    assert batches(ppo)[-1]["objective/kl_k3"] > 0
    for before, after in zip(reference, ppo.backbone.adapter_parameters("reference"), strict=True):
        assert torch.equal(before, after)


def test_the_bases_own_sampling_settings_change_nothing(base: Path, tmp_path: Path) -> None:
    absurd = Path(shutil.copytree(base, tmp_path / "absurd"))
    path = absurd / "generation_config.json"
    settings = json.loads(path.read_text())
    settings |= {"do_sample": True, "temperature": 9.0, "top_p": 0.01, "top_k": 1}
    settings |= {"repetition_penalty": 5.0, "max_new_tokens": 1, "min_p": 0.9, "num_beams": 3}
    path.write_text(json.dumps(settings))
    runs = []
    for name, folder in (("plain", base), ("absurd", absurd)):
        ppo = bare_ppo(tmp_path / name / "run", folder)
        drawn = rollouts_of(ppo)
        ppo.run()
        answers = [answer for rollout in drawn for answer in rollout.answers.values()]
        runs.append((answers, policy_bytes(ppo)))
    assert runs[0] == runs[1]
    assert any(len(answer.token_ids) > 1 for answer in runs[1][0])
