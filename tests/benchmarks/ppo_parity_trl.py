"""TRL 1.12.0's PPO arithmetic, run from its own source lines.

Most of it stands inside `PPOTrainer.train`, where nothing can call it. The statements are
taken out of the installed file by the names they assign, compiled unchanged, and run on given
tensors.

Legend: b batch, t answer tokens, v vocabulary. Masks are True where something is left out, as
in TRL.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.trl_environment import DEFAULT_FOLDER, trl_file

PAD_ID, EOS_ID = 0, 2

TRAINER = "experimental/ppo/ppo_trainer.py"
FUNCTIONS = {
    TRAINER: ("INVALID_LOGPROB", "masked_mean", "masked_var", "masked_whiten", "truncate_response"),
    "experimental/utils.py": ("first_true_indices",),
    "trainer/utils.py": ("selective_log_softmax",),
}


@dataclass(frozen=True)
class Passage:
    """Consecutive statements of `PPOTrainer.train`, from the first that assigns `begins` to the
    last of the same block that assigns `ends`."""

    begins: str
    ends: str


ENDS = Passage("postprocessed_response", "sequence_length")
REWARDS = Passage("contain_eos_token", "returns")
WHITENING = Passage("returns", "advantages")
LOSSES = Passage("logits", "loss")
FIGURES = Passage("pg_clipfrac", "entropy")
MEAN_KL = Passage("mean_kl", "mean_kl")


@dataclass(frozen=True)
class Settings:
    """PPO's settings by TRL's names."""

    temperature: float = 0.7
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    gamma: float = 0.98
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = None


class TrlPpo:
    """TRL's functions by name, and its passages by what they assign."""

    def __init__(self, environment: Path = DEFAULT_FOLDER) -> None:
        self.names: dict[str, Any] = {"torch": torch, "empty_cache": lambda: None}
        self.path = trl_file(TRAINER, environment)
        for file, names in FUNCTIONS.items():
            path = trl_file(file, environment)
            wanted = [node for node in _parsed(path).body if _name(node) in names]
            _run(wanted, path, self.names)
        self._train = next(
            node
            for node in ast.walk(_parsed(self.path))
            if isinstance(node, ast.FunctionDef) and node.name == "train"
        )

    def lines(self, passage: Passage) -> str:
        """Where a passage stands in the file."""
        found = self._statements(passage)
        return f"{self.path.name}:{found[0].lineno}-{found[-1].end_lineno}"

    def run(self, passage: Passage, given: dict[str, Any], settings: Settings) -> dict[str, Any]:
        """Run a passage on the variables it reads; returns them with all that it assigned."""
        holder = SimpleNamespace(
            args=settings,
            stop_token_id=EOS_ID,
            processing_class=SimpleNamespace(pad_token_id=PAD_ID, eos_token_id=EOS_ID),
        )
        shared = {"args": settings, "self": holder, "processing_class": holder.processing_class}
        names = self.names | shared | given
        _run(self._statements(passage), self.path, names)
        return names

    def _statements(self, passage: Passage) -> list[ast.stmt]:
        for node in ast.walk(self._train):
            block = getattr(node, "body", [])
            if not isinstance(block, list):
                continue
            assigned = [_name(statement) for statement in block]
            if passage.begins in assigned and passage.ends in assigned:
                last = len(assigned) - assigned[::-1].index(passage.ends)
                return block[assigned.index(passage.begins) : last]
        raise LookupError(f"{self.path} has no passage from {passage.begins} to {passage.ends}")


def rollout(
    trl: TrlPpo,
    settings: Settings,
    *,
    responses: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    scores: Tensor,
) -> dict[str, Any]:
    """From sampled answers to whitened advantages, by TRL's lines.

    responses, logprobs, ref_logprobs, values [b, t]; scores [b]. The result holds, beside
    TRL's variables, the advantages before whitening as `plain_advantages`.
    """
    found = trl.run(ENDS, {"response": responses, "query": responses[:, :0]}, settings)
    given = {
        "responses": responses,
        "postprocessed_responses": found["postprocessed_response"],
        "sequence_lengths": found["sequence_length"],
        "logprobs": logprobs,
        "ref_logprobs": ref_logprobs,
        "values": values,
        "scores": scores.clone(),
    }
    names = trl.run(REWARDS, given, settings)
    names["plain_advantages"] = names["advantages"]
    names = trl.run(WHITENING, names, settings)
    return trl.run(MEAN_KL, names, settings)


def losses(
    trl: TrlPpo, settings: Settings, rolled: dict[str, Any], logits: Tensor, new_values: Tensor
) -> dict[str, Any]:
    """The losses of one micro-batch that is the whole rollout, by TRL's lines.

    logits [b, t, v] before the temperature, new_values [b, t]; `rolled` is what `rollout` gave.
    """
    # TRL reads position i of the answer at i - 1 of prompt and answer; the last one is unused.
    unused = (0, 0, 0, 1)
    given = rolled | {
        "output": SimpleNamespace(logits=torch.nn.functional.pad(logits, unused)),
        "vpred_temp": torch.nn.functional.pad(new_values.unsqueeze(-1), unused),
        "context_length": 1,
        "micro_batch_inds": torch.arange(len(logits)),
        "mb_responses": rolled["responses"],
        "mb_logprobs": rolled["logprobs"],
        "mb_advantage": rolled["advantages"],
        "mb_return": rolled["returns"],
        "mb_values": rolled["values"],
    }
    return trl.run(FIGURES, trl.run(LOSSES, given, settings), settings)


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(node: ast.stmt) -> str | None:
    """What a statement defines or assigns."""
    if isinstance(node, ast.FunctionDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def _run(statements: list[ast.stmt], path: Path, names: dict[str, Any]) -> None:
    module = ast.Module(body=list(statements), type_ignores=[])
    exec(compile(module, str(path), "exec"), names)
