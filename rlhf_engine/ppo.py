"""Stage ppo: tune the policy against the reward model, with no person in the loop.

For each rollout batch: the policy answers prompts; the reward model and the plugins'
reward signals score the answers; the KL to the SFT policy is taken off; a critic
estimates values; advantages follow by GAE (all that in rollout.py); policy and critic take
clipped steps.

The critic (critic.py) is a linear head over the reward model's hidden states. It costs no
forward pass of its own, since scoring computes those states anyway, and its gradient
reaches neither the policy nor the reward model.

After each rollout batch everything that decides the future is written, so that a killed
run goes on from its last batch. Several processes share each batch (processes.py).

Legend: b answers, t answer tokens, v vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf_engine import ppo_math, ppo_metrics
from rlhf_engine.backbone import Backbone
from rlhf_engine.best_of_n import BestOfN
from rlhf_engine.critic import Critic
from rlhf_engine.errors import Cancelled, SnapshotError, TrainingError
from rlhf_engine.ppo_checkpoint import load_checkpoint, save_checkpoint
from rlhf_engine.ppo_control import KlController, RewardScale
from rlhf_engine.processes import Processes
from rlhf_engine.records import StageReport
from rlhf_engine.reward_model import CRITIC, RewardModel
from rlhf_engine.rollout import POLICY, REFERENCE, Minibatch, Part, Rollouts, stream
from rlhf_engine.signals import Known, RewardSignal
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage

MAX_FIRST_RATIO_ERROR = 1e-3
MAX_FIRST_KL = 1e-2
MAX_MISMATCH = 0.2
"""Nats a token by which generation and training may differ in a log-probability, on average;
bfloat16 rounds to about 0.03."""
MAX_SKIPPED_IN_A_ROW = 3
LEARNING_RATES = {"policy": "ppo.learning_rate", "critic": "ppo.critic_learning_rate"}


def run_ppo(stage: Stage, snapshot: Snapshot, signals: Sequence[RewardSignal]) -> StageReport:
    """Tune a copy of the SFT policy; the adapter ends in STAGE/adapter."""
    prompts = [prompt for prompt in snapshot.prompts if prompt.split == "train"]
    if not prompts:
        raise SnapshotError("the snapshot holds no prompt to tune on")
    backbone = Backbone.load(Path(stage.plan.base), stage.dtype)
    sft, reward_model = (stage.run.stage_path(name) for name in ("sft", "reward_model"))
    for name in (REFERENCE, POLICY):
        backbone.add_adapter(name, sft / "adapter")
    critic = Critic.load(reward_model / CRITIC).to(backbone.device)
    judge = RewardModel(backbone, reward_model)
    known = Known.of(snapshot)
    rollouts = Rollouts(stage.plan, backbone, judge, prompts, known, signals, Processes())
    tuner = BestOfN if stage.plan.ppo.algorithm == "best_of_n" else Ppo
    return tuner(stage, rollouts, critic).run()


class Ppo:
    """The loop and what it carries from batch to batch.

    The rollouts' backbone holds two equal adapters, "policy", which learns, and "reference".
    """

    def __init__(self, stage: Stage, rollouts: Rollouts, critic: Critic) -> None:
        self.stage, self.plan, self.ppo = stage, stage.plan, stage.plan.ppo
        self.rollouts, self.critic = rollouts, critic
        self.backbone, self.processes = rollouts.backbone, rollouts.processes
        self.parameters = self.backbone.adapter_parameters(POLICY)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.ppo.learning_rate, weight_decay=0.0, eps=1e-5
        )
        self.critic_optimizer = torch.optim.AdamW(
            critic.parameters(), lr=self.ppo.critic_learning_rate, weight_decay=0.0
        )
        coefficient = self.ppo.kl_coefficient
        self.kl = KlController(
            coefficient, self.ppo.kl_target, self.ppo.kl_horizon, least=coefficient
        )
        self.scale = RewardScale.starting(self.ppo.rollout_size)
        self.kept = self._copy_of_policy()
        self.skipped, self.skipped_in_a_row = 0, dict.fromkeys(LEARNING_RATES, 0)
        self.history: list[dict[str, float]] = []

    def run(self) -> StageReport:
        """All rollout batches from the last checkpoint on."""
        checkpoint = self.stage.run.checkpoint_path(self.stage.name)
        first, total = self._restore(checkpoint), self.ppo.rollout_batches
        for number in range(first, total):
            if self._stopped_by_kl():
                break
            self._tell(number)
            self.history.append(self._batch(number))
            if self.processes.first:
                self._save(checkpoint, number + 1)
                self.stage.run.append_metrics({"batch": number, **self.history[-1]})
                self.stage.draw()
        self._tell(total)
        if self.processes.first:
            self.backbone.save_adapter(POLICY, self.stage.path / "adapter")
        figures = ppo_metrics.figures(self.history, self._stopped_by_kl(), self.skipped)
        return StageReport(self.stage.name, self.stage.seconds(), figures)

    def _batch(self, number: int) -> dict[str, float]:
        """One rollout batch and the update from it, or the way back to a policy near enough to the
        SFT policy."""
        rollout = self.rollouts.draw(
            number,
            self.critic,
            self.kl.coefficient,
            self.scale,
            lambda passes: self._show(number, passes * self.processes.count),
        )
        drawn = ppo_metrics.of_rollout(
            rollout, self.processes, self.kl.coefficient, self.ppo.kl_estimator
        )
        self._check_mismatch(drawn)
        started = time.monotonic()
        updates: dict[str, float] = {}
        self._set_learning_rate(number)
        if drawn["objective/kl"] > self.ppo.max_kl:
            self._go_back(drawn["objective/kl"])
        else:
            self.kept = self._copy_of_policy()
            updates = self._update(number, rollout.minibatches)
        self.kl.update(drawn["objective/kl"], self.ppo.rollout_size)
        update_s = time.monotonic() - started
        seconds = rollout.drawing_s + rollout.scoring_s + update_s
        return {
            **drawn,
            **updates,
            "policy/learning_rate": self.optimizer.param_groups[0]["lr"],
            "skipped_steps": float(self.skipped),
            "time/rollout": rollout.drawing_s,
            "time/score": rollout.scoring_s,
            "time/update": update_s,
            "tokens_per_s": drawn["length/mean"] * self.ppo.rollout_size / seconds,
        }

    def _update(self, number: int, minibatches: list[Minibatch]) -> dict[str, float]:
        """Several epochs of clipped steps, the critic before the policy; means over all steps."""
        shares = [self._token_shares(minibatch) for minibatch in minibatches]
        seen = [
            self._critic_step(minibatches[at], shares[at])
            for epoch in range(self.ppo.critic_epochs if self.ppo.algorithm == "ppo" else 0)
            for at in self._order(number, "critic", epoch, len(minibatches))
        ]
        figures = ppo_metrics.means(seen)
        if number < self.ppo.critic_warmup_batches:
            return figures
        return figures | self._policy_steps(number, minibatches, shares)

    def _policy_steps(
        self, number: int, minibatches: list[Minibatch], shares: list[list[float]]
    ) -> dict[str, float]:
        """Means of what the steps measured, or what forbade the first one: no step follows once a
        minibatch shows the policy too far from the one that drew the answers."""
        seen: list[dict[str, float]] = []
        refused: list[dict[str, float]] = []
        for at in self._policy_order(number, len(minibatches)):
            self._stop_if_asked()
            measured = self._policy_gradient(minibatches[at], shares[at])
            if number == self.ppo.critic_warmup_batches and not seen:
                self._check_first_step(measured, minibatches[at])
            if measured["policy/approx_kl"] > self.ppo.early_stop_kl:
                refused.append(measured)
                break
            self._take_step("policy", self.optimizer)
            seen.append(measured)
            self._show(number, 2 * self.ppo.rollout_size, len(seen) * self.ppo.minibatch_size)
        return ppo_metrics.means(seen or refused) | {"policy/steps": float(len(seen))}

    def _set_learning_rate(self, number: int) -> None:
        """Linear from the plan's rate in the first batch towards 0 after the last: the noise of
        the last few steps would otherwise stay in the policy."""
        decayed = self.ppo.learning_rate_schedule == "linear"
        left = 1 - number / self.ppo.rollout_batches if decayed else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.ppo.learning_rate * left

    def _policy_order(self, number: int, count: int) -> list[int]:
        """The minibatches of all epochs, each epoch in an order of its own."""
        return [
            at
            for epoch in range(self.ppo.epochs)
            for at in self._order(number, "policy", epoch, count)
        ]

    def _order(self, number: int, what: str, epoch: int, count: int) -> list[int]:
        order = list(range(count))
        stream(self.plan.seed, what, number, epoch).shuffle(order)
        return order

    def _token_shares(self, minibatch: Minibatch) -> list[float]:
        """Each part's share of the answer tokens of the whole minibatch, of all processes."""
        counts = torch.tensor([float(part.mask.sum()) for part in minibatch])
        total = self.processes.add_up(counts.sum().to(self.backbone.device))
        return [float(count / total.cpu().clamp(min=1)) for count in counts]

    def _critic_step(self, minibatch: Minibatch, shares: list[float]) -> dict[str, float]:
        clip = self.ppo.value_clip_range
        self.critic_optimizer.zero_grad(set_to_none=True)
        figures = torch.zeros(2, device=self.backbone.device)
        for part, share in zip(minibatch, shares, strict=True):
            values = self.critic(part.judged.states)
            loss = ppo_math.value_loss(values, part.values, part.returns, part.mask, clip)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            moved = ((values.detach() - part.values).abs() > clip).float()
            clipped = ppo_math.masked_mean(moved, part.mask)
            figures += share * torch.stack([loss.detach(), clipped])
        self._take_step("critic", self.critic_optimizer)
        keys = ("loss/value", "value/clipfrac")
        return dict(zip(keys, self.processes.add_up(figures).tolist(), strict=True))

    def _policy_gradient(self, minibatch: Minibatch, shares: list[float]) -> dict[str, float]:
        """Leave the gradient of one optimizer step, to which each part adds by its share of the
        minibatch's tokens; the figures of `STEP_KEYS`, of all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        figures = torch.zeros(len(ppo_metrics.STEP_KEYS), device=self.backbone.device)
        for part, share in zip(minibatch, shares, strict=True):
            loss, measured = self._policy_loss(part)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            figures += share * measured
        return dict(
            zip(ppo_metrics.STEP_KEYS, self.processes.add_up(figures).tolist(), strict=True)
        )

    def _policy_loss(self, part: Part) -> tuple[Tensor, Tensor]:
        """The clipped surrogate loss, and the figures of `STEP_KEYS`."""
        clip, mask = self.ppo.clip_range, part.mask
        with self.backbone.using(POLICY, trainable=True):
            logits = self.backbone.logits(part.groups)
        logprobs, entropy = ppo_math.logprobs_and_entropy(
            logits, part.groups.answers, self.ppo.temperature
        )
        loss = ppo_math.policy_loss(logprobs, part.logprobs, part.advantages, mask, clip)
        with torch.no_grad():
            ratio = (logprobs - part.logprobs).exp()
            figures = (
                loss.detach(),
                ppo_math.masked_mean(entropy, mask),
                ppo_math.clip_fraction(logprobs, part.logprobs, mask, clip),
                ppo_math.masked_mean(ppo_math.kl_k3(part.logprobs, logprobs), mask),
                ppo_math.masked_mean(ratio, mask),
                ppo_math.masked_mean((ratio - 1).abs(), mask),
            )
        return loss, torch.stack(figures)

    def _take_step(self, who: str, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient and step; a gradient that is not finite is skipped and counted."""
        trained = optimizer.param_groups[0]["params"]
        self.processes.add_up_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, self.ppo.max_grad_norm)
        if torch.isfinite(norm):
            optimizer.step()
            self.skipped_in_a_row[who] = 0
            return
        self.skipped += 1
        self.skipped_in_a_row[who] += 1
        if self.skipped_in_a_row[who] >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"stage ppo: {self.skipped_in_a_row[who]} steps of the {who} in a row had a loss "
                f"or gradient that is not finite; lower {LEARNING_RATES[who]} in plan.json, then "
                "resume the run"
            )

    def _check_first_step(self, step: dict[str, float], minibatch: Minibatch) -> None:
        """Before anything was learned, policy and SFT policy are one: ratio 1 and KL 0."""
        apart = [(part.logprobs - part.reference).abs() * part.mask for part in minibatch]
        kl = max((float(each.sum(dim=1).max()) for each in apart), default=0.0)
        error = step["policy/ratio_error"]
        if self.processes.any(error > MAX_FIRST_RATIO_ERROR or kl > MAX_FIRST_KL):
            raise TrainingError(
                f"stage ppo: the first ratio is off by {error:.2g} (allowed "
                f"{MAX_FIRST_RATIO_ERROR}) and the first KL is {kl:.2g} (allowed {MAX_FIRST_KL}); "
                "rollout and training do not see the same policy"
            )

    def _check_mismatch(self, drawn: dict[str, float]) -> None:
        if drawn["policy/mismatch"] > MAX_MISMATCH:
            raise TrainingError(
                f"stage ppo: generation and training differ by {drawn['policy/mismatch']:.2g} nats "
                f"a token (allowed {MAX_MISMATCH}); set dtype float32, or use a base policy whose "
                "attention can go on from a key-value cache"
            )

    def _stopped_by_kl(self) -> bool:
        return bool(self.history) and self.history[-1]["objective/kl"] > self.ppo.max_kl

    def _stop_if_asked(self) -> None:
        asked = self.processes.first and self.stage.run.cancel_requested
        if self.processes.any(asked):
            raise Cancelled(f"run {self.stage.run.path.name} was asked to stop")

    def _tell(self, number: int) -> None:
        self._stop_if_asked()
        self._show(number, 0)

    def _show(self, number: int, rolled_out: int, learnt: int = 0) -> None:
        """Progress in passes over answers: each is drawn and judged, then learned from in every
        epoch, and each pass takes about as long. All of the batches before, and so many of batch
        `number`; a last minibatch may be smaller, and so may another process's share."""
        if self.processes.first:
            size, epochs = self.ppo.rollout_size, self.ppo.epochs
            done = number * (2 + epochs) * size
            done += min(rolled_out, 2 * size) + min(learnt, epochs * size)
            total = self.ppo.rollout_batches * (2 + epochs) * size
            # Several processes stop together, where they ask each other.
            tell = self.stage.tell if self.processes.count == 1 else self.stage.show
            tell(done, total, "tuning the policy")

    def _copy_of_policy(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def _go_back(self, kl: float) -> None:
        """Go back from a policy at `kl` towards the last one below the largest KL, as far as that
        limit. KL grows faster than the way along a straight line, so that between the two it lies
        below their linear interpolation; most of what the last step won is kept."""
        before = self.history[-1]["objective/kl"] if self.history else 0.0
        share = max(0.0, (self.ppo.max_kl - before) / (kl - before))
        for parameter, value in zip(self.parameters, self.kept, strict=True):
            parameter.copy_(value + share * (parameter - value))

    def _save(self, path: Path, next_batch: int) -> None:
        state = {
            "next_batch": next_batch,
            "skipped": [self.skipped, self.skipped_in_a_row],
            "kl": asdict(self.kl),
            "scale": asdict(self.scale),
            "history": self.history,
        }
        save_checkpoint(path, [self.optimizer, self.critic_optimizer], self.kept, state)

    def _restore(self, path: Path) -> int:
        state = load_checkpoint(path, [self.optimizer, self.critic_optimizer], self.kept)
        if state is None:
            return 0
        self.skipped, self.skipped_in_a_row = state["skipped"]
        self.kl, self.scale = KlController(**state["kl"]), RewardScale(**state["scale"])
        self.history = state["history"]
        if self.processes.first:
            ppo_metrics.append_missing(self.stage.run, self.history)
        return int(state["next_batch"])
