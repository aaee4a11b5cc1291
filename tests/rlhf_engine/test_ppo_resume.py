"""PPO steps over what is not finite, keeps to its KL limit, and goes on where it stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_engine import ppo as ppo_module
from rlhf_engine.errors import RunFolderError, TrainingError
from rlhf_engine.files import sha256_of
from rlhf_engine.ppo import Ppo
from rlhf_engine.ppo_checkpoint import save_checkpoint
from rlhf_engine.rollout import Rollout
from tests.rlhf_engine.ppo_runs import bare_ppo, batches, policy_bytes
from tests.tiny import tiny_base


class Killed(BaseException):
    """Stands for a kill: nothing in the engine catches it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def killed_after(monkeypatch: pytest.MonkeyPatch, ppo: Ppo, saves: int) -> None:
    """Run, and be killed right after so many checkpoints, before their metrics are written."""
    done = 0

    def save(*arguments: Any) -> None:
        nonlocal done
        save_checkpoint(*arguments)
        done += 1
        if done == saves:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ppo_module, "save_checkpoint", save)
        ppo.run()


def spoiled_gradients(ppo: Ppo, steps: set[int]) -> None:
    """Make the gradient of these policy steps NaN, counted from 0."""
    step, count = ppo._take_step, 0

    def take(who: str, optimizer: torch.optim.Optimizer) -> None:
        nonlocal count
        if who == "policy":
            if count in steps:
                ppo.parameters[0].grad[0, 0] = math.nan  # type: ignore[index]
            count += 1
        step(who, optimizer)

    ppo._take_step = take  # type: ignore[method-assign]


def spoiled_advantages(ppo: Ppo, batch: int) -> None:
    """Make the advantages of the first minibatch of one rollout batch NaN."""
    draw = ppo.rollouts.draw

    def drawn(number: int, *arguments: Any) -> Rollout:
        rollout = draw(number, *arguments)
        if number == batch:
            for part in rollout.minibatches[0]:
                part.advantages = part.advantages * math.nan
        return rollout

    ppo.rollouts.draw = drawn  # type: ignore[method-assign]


ONE_STEP = {"epochs": 1, "minibatch_size": 4}
TWO_STEPS = {"epochs": 1, "minibatch_size": 2}


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **ONE_STEP)
    spoiled_gradients(ppo, {0})
    start, seen = policy_bytes(ppo), []
    draw = ppo.rollouts.draw

    def recorded(*arguments: Any) -> Rollout:
        seen.append(policy_bytes(ppo))
        return draw(*arguments)

    ppo.rollouts.draw = recorded  # type: ignore[method-assign]
    report = ppo.run()
    assert seen[:2] == [start, start]
    assert seen[2] != start
    assert [row["skipped_steps"] for row in batches(ppo)] == [1, 1, 1]
    assert report.figures["skipped_steps"] == 1


def test_a_loss_that_is_not_finite_leaves_readable_metrics(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **TWO_STEPS)
    spoiled_advantages(ppo, batch=1)
    ppo.run()
    rows = batches(ppo)
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert "loss/policy" in rows[1]


def test_a_batch_whose_every_step_was_skipped_is_reported(base: Path, tmp_path: Path) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **ONE_STEP)
    spoiled_advantages(ppo, batch=1)
    ppo.run()
    assert ["loss/policy" in row for row in batches(ppo)] == [True, False, True]


def test_three_skipped_steps_in_a_row_stop_the_run_and_the_checkpoint_stands(
    base: Path, tmp_path: Path
) -> None:
    whole = bare_ppo(tmp_path / "whole", base, **TWO_STEPS)
    whole.run()
    broken = bare_ppo(tmp_path / "run", base, **TWO_STEPS)
    spoiled_gradients(broken, {3, 4, 5})
    with pytest.raises(TrainingError, match=r"3 steps of the policy in a row.*learning_rate"):
        broken.run()
    assert [row["batch"] for row in batches(broken)] == [0, 1]
    assert [row["skipped_steps"] for row in batches(broken)] == [0, 1]
    assert batches(broken)[0] == batches(whole)[0]
    mended = bare_ppo(tmp_path / "run", base, **TWO_STEPS)
    mended.run()
    assert [row["batch"] for row in batches(mended)] == [0, 1, 2]
    assert batches(mended)[2]["skipped_steps"] == 1


def test_skips_in_a_row_are_counted_across_a_resume(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bare_ppo(tmp_path / "run", base, **TWO_STEPS)
    spoiled_gradients(first, {0, 1})
    killed_after(monkeypatch, first, 1)
    second = bare_ppo(tmp_path / "run", base, **TWO_STEPS)
    spoiled_gradients(second, {0})
    with pytest.raises(TrainingError, match="3 steps"):
        second.run()
    third = bare_ppo(tmp_path / "run", base, **TWO_STEPS)
    assert third.run().figures["skipped_steps"] == 2


def test_good_steps_of_the_critic_do_not_hide_bad_ones_of_the_policy(
    base: Path, tmp_path: Path
) -> None:
    ppo = bare_ppo(tmp_path / "run", base, **ONE_STEP)
    spoiled_gradients(ppo, {0, 1, 2})
    with pytest.raises(TrainingError, match="3 steps of the policy"):
        ppo.run()
    assert [row["skipped_steps"] for row in batches(ppo)] == [1, 2]


STRAYING = {"rollout_batches": 8, "learning_rate": 0.03, "kl_coefficient": 0.0, "kl_target": None}
LIMIT = 0.5


def policies_that_drew(ppo: Ppo) -> list[list[torch.Tensor]]:
    """The policy's parameters as each rollout batch was drawn."""
    seen: list[list[torch.Tensor]] = []
    draw = ppo.rollouts.draw

    def recorded(*arguments: Any) -> Rollout:
        seen.append([parameter.detach().clone() for parameter in ppo.parameters])
        return draw(*arguments)

    ppo.rollouts.draw = recorded  # type: ignore[method-assign]
    return seen


def test_the_kl_stop_goes_back_as_far_as_the_limit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bare_ppo(tmp_path / "whole", base, **STRAYING, max_kl=LIMIT)
    drew = policies_that_drew(whole)
    report = whole.run()
    kls = [row["objective/kl"] for row in batches(whole)]
    assert report.figures["stopped_by_kl"] is True
    assert 2 <= len(kls) < 8
    assert max(kls[:-1]) <= LIMIT < kls[-1]
    share = (LIMIT - kls[-2]) / (kls[-1] - kls[-2])
    between = [before + share * (after - before) for before, after in zip(*drew[-2:], strict=True)]
    torch.testing.assert_close([each.detach() for each in whole.parameters], between)
    adapter = whole.stage.path / "adapter" / "adapter_model.safetensors"
    for saves in (len(kls) - 1, len(kls)):
        folder = tmp_path / f"killed-{saves}"
        killed_after(monkeypatch, bare_ppo(folder, base, **STRAYING, max_kl=LIMIT), saves)
        resumed = bare_ppo(folder, base, **STRAYING, max_kl=LIMIT)
        figures = resumed.run().figures
        assert figures == report.figures
        assert batches(resumed) == batches(whole)
        assert sha256_of(resumed.stage.path / "adapter" / "adapter_model.safetensors") == sha256_of(
            adapter
        )


STEERED = {
    "rollout_batches": 4,
    "rollout_size": 8,
    "kl_target": 0.002,
    "kl_horizon": 8.0,
    "early_stop_kl": 100.0,
}


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_what_steers_survives_a_kill_after_each_batch(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    steered = {**STEERED, "algorithm": algorithm}
    whole = bare_ppo(tmp_path / "whole", base, **steered)
    whole.run()
    coefficients = [row["objective/kl_coefficient"] for row in batches(whole)]
    # The first batch strays nowhere, and the coefficient never falls below its start.
    assert coefficients[0] == coefficients[1] < coefficients[2] < coefficients[3]
    for _ in range(3):
        killed_after(monkeypatch, bare_ppo(tmp_path / "run", base, **steered), 1)
    resumed = bare_ppo(tmp_path / "run", base, **steered)
    resumed.run()
    assert batches(resumed) == batches(whole)
    assert resumed.scale == whole.scale
    assert resumed.kl == whole.kl
    assert policy_bytes(resumed) == policy_bytes(whole)
    assert torch.equal(resumed.critic.weight, whole.critic.weight)


def test_a_line_of_metrics_that_a_kill_cut_off_swallows_none(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(monkeypatch, bare_ppo(tmp_path / "run", base), 3)
    cut = bare_ppo(tmp_path / "run", base)
    with cut.stage.run.metrics_path.open("a") as file:
        file.write(json.dumps({"batch": 2, "objective/kl": 0.0})[:-5])
    cut.run()
    assert [row["batch"] for row in batches(cut)] == [0, 1, 2]


def test_a_kill_before_the_stages_marker_repeats_no_batch(base: Path, tmp_path: Path) -> None:
    whole = bare_ppo(tmp_path / "run", base)
    figures = whole.run().figures
    again = bare_ppo(tmp_path / "run", base)
    drew = policies_that_drew(again)
    assert again.run().figures == figures
    assert drew == []
    assert policy_bytes(again) == policy_bytes(whole)
    assert [row["batch"] for row in batches(again)] == [0, 1, 2]


def test_a_damaged_checkpoint_is_said_with_the_way_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(monkeypatch, bare_ppo(tmp_path / "run", base), 1)
    resumed = bare_ppo(tmp_path / "run", base)
    checkpoint = resumed.stage.run.checkpoint_path("ppo")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError, match="delete it to start the stage again"):
        resumed.run()
