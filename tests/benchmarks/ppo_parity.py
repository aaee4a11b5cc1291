"""`python -m tests.benchmarks.ppo_parity`: is PPO's arithmetic that of TRL 1.12.0?

Runs rlhf_engine.ppo_math and TRL's own source lines on the same fixed inputs, and compares
what comes out. Each quantity must be equal to 1e-5, or differ for a documented reason. For a
documented difference a second row takes the reason away, and then they must be equal.

Ends with 1 where something differs that is not documented, or no longer differs though it is.

Legend: b batch, t answer tokens, v vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_engine import ppo_math
from rlhf_engine.processes import Processes
from tests.benchmarks import ppo_parity_trl, trl_environment
from tests.benchmarks.ppo_parity_sides import FULL, RAGGED, ROWS, Case, Sides
from tests.benchmarks.ppo_parity_trl import TrlPpo

TOLERANCE = 1e-5

DOCUMENTED = {
    "score place": "TRL adds an answer's score one position after its end-of-turn token, where "
    "there is room; here it is the reward of the end-of-turn token (InstructGPT, 3.5). In TRL "
    "the token that ends the answer is credited with lambda times the score only.",
    "value after the end": "TRL trains the critic at that extra position too, and discounts "
    "through it; here the episode ends with the answer's last token.",
    "Bessel": "TRL whitens advantages with the unbiased variance (n - 1), here with n: of a "
    "single token the unbiased variance is not a number.",
    "clip fraction": "TRL counts tokens whose clipped loss is larger; here all whose ratio lies "
    "outside the clip range. Only reported, nothing learns from it.",
    "padding in means": "TRL's mean ratio counts padding as ratio 1; here padding enters no mean. "
    "Only reported, nothing learns from it.",
    "empty input": "TRL divides by zero where no token, or a single one, is left; here the "
    "result is 0.",
}


@dataclass(frozen=True)
class Row:
    """One comparison; `reason` is a key of DOCUMENTED where a difference is expected."""

    quantity: str
    answers: str
    difference: float
    reason: str | None = None

    @property
    def equal(self) -> bool:
        """Whether both sides agree; a side that is not a number agrees with nothing."""
        return self.difference <= TOLERANCE

    @property
    def as_documented(self) -> bool:
        """Equal where nothing is documented, different where something is."""
        return self.equal == (self.reason is None)

    @property
    def verdict(self) -> str:
        """What the table says."""
        if self.reason is None:
            return "equal" if self.equal else "DIFFERS"
        return "equal, though documented to differ" if self.equal else f"documented: {self.reason}"


def compared(
    sides: Sides,
    quantity: str,
    ours: Tensor,
    theirs: Tensor,
    reason: str | None = None,
) -> Row:
    """A row: tensors [b, t] are compared on answer tokens, scalars as they are."""
    difference = (ours - theirs).abs()
    if difference.dim() == 2:
        difference = difference[sides.case.mask]
    return Row(quantity, sides.case.name, float(difference.max()), reason)


def probabilities(sides: Sides) -> Iterator[Row]:
    """Log-probabilities, entropy and both KL estimators of each token."""
    case, temperature = sides.case, sides.settings.temperature
    yield compared(sides, "log-probability", sides.logprobs(case.old_logits), sides.trl_logprobs)
    new = sides.losses["new_logprobs"]
    yield compared(sides, "log-probability after a step", sides.logprobs(case.new_logits), new)
    logprobs = sides.logprobs(case.old_logits)
    for name, estimate in (("k1", ppo_math.kl_k1), ("k3", ppo_math.kl_k3)):
        chosen = Sides(sides.trl, case, replace(sides.settings, kl_estimator=name))
        yield compared(sides, f"KL {name}", estimate(logprobs, case.reference), chosen.rolled["kl"])
    kl = ppo_math.kl_k1(logprobs, case.reference)
    yield compared(
        sides, "KL an answer", ppo_math.sequence_kl(kl, case.mask), sides.rolled["mean_kl"]
    )
    _, entropy = ppo_math.logprobs_and_entropy(case.new_logits, case.tokens, temperature)
    yield compared(sides, "entropy", entropy, sides.losses["entropy"])


def filled_answers(sides: Sides) -> Iterator[Row]:
    """Answers that leave no room after their end: TRL's layout and ours are one."""
    rolled, losses = sides.rolled, sides.losses
    mask = sides.case.mask
    advantage, returns = sides.gae(sides.rewards, mask)
    yield compared(sides, "reward", sides.rewards, rolled["rewards"])
    yield compared(sides, "advantage", advantage, rolled["plain_advantages"])
    yield compared(sides, "return", returns, rolled["returns"])
    kept, count = advantage[mask.bool()], mask.sum()
    white = ppo_math.whiten(advantage, float(kept.mean()), float(kept.var(unbiased=False))) * mask
    yield compared(sides, "whitened advantage", white, rolled["advantages"], "Bessel")
    unbiased = white * ((count - 1) / count).sqrt()
    yield compared(sides, "... with n - 1", unbiased, rolled["advantages"])
    yield _policy_loss(sides)
    yield compared(sides, "value loss", _value_loss(sides, mask), losses["vf_loss"])


def ragged_answers(sides: Sides) -> Iterator[Row]:
    """Answers of different lengths."""
    rolled, mask = sides.rolled, sides.case.mask
    advantage, returns = sides.gae(sides.rewards, mask)
    yield compared(sides, "reward", sides.rewards, rolled["rewards"], "score place")
    without = _without_scores(sides)
    yield compared(sides, "... without scores", without.rewards, without.rolled["rewards"])
    longer = ~rolled["padding_mask_p1"]
    yield compared(sides, "advantage", advantage, rolled["plain_advantages"], "score place")
    yield compared(sides, "return", returns, rolled["returns"], "score place")
    advantage, returns = sides.gae(rolled["rewards"], longer)
    yield compared(
        sides, "... TRL's rewards, one more token", advantage, rolled["plain_advantages"]
    )
    yield compared(sides, "... TRL's rewards, one more token", returns, rolled["returns"])
    undiscounted = Sides(sides.trl, sides.case, replace(sides.settings, gamma=1.0, lam=1.0))
    advantage, _ = undiscounted.gae(undiscounted.rewards, mask)
    theirs = undiscounted.rolled["plain_advantages"]
    yield compared(sides, "advantage, gamma = lambda = 1", advantage, theirs)
    yield _policy_loss(sides)
    theirs = sides.losses["vf_loss"]
    yield compared(sides, "value loss", _value_loss(sides, mask), theirs, "value after the end")
    yield compared(sides, "... with one more token", _value_loss(sides, longer), theirs)


def figures(sides: Sides) -> Iterator[Row]:
    """Figures that are reported and never learned from."""
    case, losses, clip = sides.case, sides.losses, sides.settings.cliprange
    old, new = sides.trl_logprobs, losses["new_logprobs"]
    ours = ppo_math.clip_fraction(new, old, case.mask, clip)
    yield compared(sides, "clip fraction", ours, losses["pg_clipfrac"], "clip fraction")
    binding = (new - old).exp().sub(1) * losses["mb_advantage"] > 0
    ours = ppo_math.clip_fraction(torch.where(binding, new, old), old, case.mask, clip)
    yield compared(sides, "... where the clip binds", ours, losses["pg_clipfrac"])
    ratio = losses["ratio"]
    mean = ppo_math.masked_mean(ratio, case.mask)
    yield compared(sides, "mean ratio", mean, ratio.mean(), "padding in means")
    everywhere = ppo_math.masked_mean(ratio, torch.ones_like(ratio))
    yield compared(sides, "... padding counted", everywhere, ratio.mean())


def degenerate(sides: Sides) -> Iterator[Row]:
    """Inputs with nothing to average."""
    values, one = torch.tensor([[0.7, 0.2]]), torch.tensor([[1, 0]])
    trl = sides.trl.names
    for quantity, ours, theirs, mask in (
        ("mean of no token", ppo_math.masked_mean, trl["masked_mean"], torch.zeros_like(one)),
        ("whitening of one token", _whitened, trl["masked_whiten"], one),
    ):
        found = ours(values, mask)
        if not torch.isfinite(found).all():
            yield Row(quantity, "one answer", float("nan"))
        difference = (found - theirs(values, mask)).abs().max()
        yield Row(quantity, "one answer", float(difference), "empty input")


def _without_scores(sides: Sides) -> Sides:
    scoreless = replace(sides.case, scores=torch.zeros(ROWS))
    return Sides(sides.trl, scoreless, sides.settings)


def _whitened(values: Tensor, mask: Tensor) -> Tensor:
    """As a rollout does it: moments over its answer tokens, 0 elsewhere."""
    _, mean, variance = Processes().moments(values[mask.bool()])
    return ppo_math.whiten(values, mean, variance) * mask


def _policy_loss(sides: Sides) -> Row:
    case, losses = sides.case, sides.losses
    new, old = sides.logprobs(case.new_logits), sides.logprobs(case.old_logits)
    advantage, clip = losses["mb_advantage"], sides.settings.cliprange
    ours = ppo_math.policy_loss(new, old, advantage, case.mask, clip)
    return compared(sides, "policy loss", ours, losses["pg_loss"])


def _value_loss(sides: Sides, mask: Tensor) -> Tensor:
    case, returns = sides.case, sides.rolled["returns"]
    old, new, clip = case.old_values, case.new_values, sides.settings.cliprange_value
    return ppo_math.value_loss(new, old, returns, mask, clip)


PARTS: tuple[tuple[Callable[[Sides], Iterator[Row]], Case], ...] = (
    (probabilities, RAGGED),
    (filled_answers, FULL),
    (ragged_answers, RAGGED),
    (figures, RAGGED),
    (degenerate, RAGGED),
)


def compare(trl: TrlPpo) -> list[Row]:
    """All comparisons."""
    return [row for part, case in PARTS for row in part(Sides(trl, case))]


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 if every row is as documented, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ppo_parity")
    trl_environment.add_argument(parser)
    arguments = parser.parse_args(argv)
    try:
        trl = TrlPpo(arguments.environment)
    except trl_environment.TrlUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    rows = compare(trl)
    print(f"{'quantity':34} {'answers':15} {'largest difference':>18}  verdict")
    for row in rows:
        print(f"{row.quantity:34} {row.answers:15} {row.difference:18.2g}  {row.verdict}")
    print("\nDocumented differences")
    for name, reason in DOCUMENTED.items():
        print(f"  {name}: {reason}")
    print("\nTRL's lines")
    for name, passage in vars(ppo_parity_trl).items():
        if isinstance(passage, ppo_parity_trl.Passage):
            print(f"  {name.lower().replace('_', ' '):10} {trl.lines(passage)}")
    wrong = [row for row in rows if not row.as_documented]
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} quantities are equal or as documented")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
