"""ppo_parity passes on this project's arithmetic, and notices arithmetic that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf_engine import ppo_math
from tests.benchmarks import ppo_parity
from tests.benchmarks.ppo_parity_trl import TrlPpo
from tests.benchmarks.trl_environment import TrlUnavailableError


@pytest.fixture(scope="module")
def trl() -> TrlPpo:
    """TRL's arithmetic, fetched from the package index the first time."""
    try:
        return TrlPpo()
    except TrlUnavailableError as error:
        pytest.skip(str(error))


def test_every_quantity_is_equal_or_documented(trl: TrlPpo) -> None:
    rows = ppo_parity.compare(trl)
    assert [row for row in rows if not row.as_documented] == []
    assert {row.reason for row in rows if row.reason} <= set(ppo_parity.DOCUMENTED)


@pytest.mark.parametrize(
    ("function", "factor", "quantity"),
    [
        ("gathered_logprobs", 1.01, "log-probability"),
        ("kl_k3", 1.01, "KL k3"),
        ("advantages", 1.01, "advantage"),
        ("policy_loss", 1.01, "policy loss"),
        ("value_loss", 2.0, "value loss"),
    ],
)
def test_a_wrong_factor_is_noticed(
    trl: TrlPpo, monkeypatch: pytest.MonkeyPatch, function: str, factor: float, quantity: str
) -> None:
    right = getattr(ppo_math, function)

    def wrong(*arguments: Any) -> Any:
        found = right(*arguments)
        return found * factor if torch.is_tensor(found) else tuple(each * factor for each in found)

    monkeypatch.setattr(ppo_math, function, wrong)
    noticed = {row.quantity for row in ppo_parity.compare(trl) if not row.as_documented}
    assert quantity in noticed


def test_the_command_prints_its_verdict(trl: TrlPpo, capsys: pytest.CaptureFixture[str]) -> None:
    assert ppo_parity.main([]) == 0
    assert "quantities are equal or as documented" in capsys.readouterr().out
