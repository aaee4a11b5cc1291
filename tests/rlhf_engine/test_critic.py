"""The critic that PPO begins with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf_engine.critic import FOLDS, Critic

WIDTH, TOKENS = 40, 6


def states_of(questions: Tensor, generator: torch.Generator) -> Tensor:
    """States [n, h] that are nearly those of their question [n]."""
    own = torch.randn(int(questions.max()) + 1, WIDTH, generator=generator)
    return own[questions] + 0.05 * torch.randn(len(questions), WIDTH, generator=generator)


def test_a_forecast_holds_for_questions_that_were_not_seen() -> None:
    generator = torch.Generator().manual_seed(5)
    questions = torch.arange(400).repeat_interleave(TOKENS)
    states = states_of(questions, generator)
    targets = states[:, 0] + 0.1 * torch.randn(len(states), generator=generator)
    seen = questions < 300
    critic = Critic.fitted(states[seen], targets[seen], questions[seen])
    error = (critic(states[~seen]).detach() - targets[~seen]).square().mean()
    assert float(error) < 0.05 * float(targets[~seen].var())


def test_what_only_tells_questions_apart_is_not_believed() -> None:
    """Each question has a target of its own that its states do not foretell: the more answers to
    known questions, the better they can be learnt by heart."""
    generator = torch.Generator().manual_seed(6)
    questions = torch.arange(60).repeat_interleave(10 * TOKENS)
    states = states_of(questions, generator)
    targets = torch.randn(60, generator=generator)[questions]
    critic = Critic.fitted(states, targets, questions)
    unseen = torch.randn(200, WIDTH, generator=generator)
    assert float(critic(unseen).detach().std()) < 0.5 * float(targets.std())


@pytest.mark.parametrize("questions", [1, FOLDS - 1])
def test_a_few_questions_are_enough(questions: int) -> None:
    numbers = torch.arange(questions).repeat_interleave(TOKENS)
    states = states_of(numbers, torch.Generator().manual_seed(7))
    critic = Critic.fitted(states, torch.ones(len(states)), numbers)
    assert torch.allclose(critic(states), torch.ones(len(states)), atol=1e-4)
