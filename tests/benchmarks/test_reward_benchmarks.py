"""The benchmarks of the reward model run at their smallest size, and hold out whole groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_engine import RunPlan
from tests.benchmarks import noise, reward_model
from tests.benchmarks.reward_bench import Votes, arguments, read_votes
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, base: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("votes")
    rows = [
        {
            "id": f"{group}-{at}",
            "group": f"g{group}",
            "source": "test",
            "prompt": [{"role": "user", "content": f"Question {group}?"}],
            "chosen": f"You have {at} days of leave a year.",
            "rejected": "Call the service desk.",
        }
        for group in range(12)
        for at in range(3)
    ]
    tie = {**rows[0], "a": "Yes.", "b": "No."}
    del tie["chosen"], tie["rejected"]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "ties.jsonl").write_text(json.dumps(tie), encoding="utf-8")
    sizes = ["--epochs", "1", "--size", "8", "--held-out", "4", "--threads", "1"]
    return ["--data", str(folder), "--base", str(base), "--dtype", "float32", *sizes]


def votes_of(options: list[str]) -> Votes:
    return read_votes(arguments("").parse_args(options))


def test_groups_are_held_out_whole(options: list[str]) -> None:
    votes = votes_of([*options, "--size", "0", "--held-out", "0"])
    train = {vote.prompt.id for vote in votes.train}
    held_out = {vote.prompt.id for vote in votes.held_out}
    assert train
    assert held_out
    assert not train & held_out
    assert sum(vote.outcome == "tie" for vote in (*votes.train, *votes.held_out)) <= 1
    assert all(vote.decisive for vote in votes.held_out)


def test_each_split_holds_out_other_groups(options: list[str]) -> None:
    whole = arguments("").parse_args([*options, "--size", "0", "--held-out", "0"])
    splits = [read_votes(whole, split) for split in range(3)]
    asked = [frozenset(vote.prompt.id for vote in each.held_out) for each in splits]
    assert len(set(asked)) == 3
    for each, held_out in zip(splits, asked, strict=True):
        assert not {vote.prompt.id for vote in each.train} & held_out


def test_a_share_of_the_training_votes_is_flipped_and_no_other(options: list[str]) -> None:
    votes = votes_of(options)
    decisive = sum(vote.decisive for vote in votes.train)
    turned = noise.flipped(votes, 0.25, seed=17)
    changed = [one != other for one, other in zip(votes.train, turned.train, strict=True)]
    assert sum(changed) == round(0.25 * decisive)
    assert turned.held_out == votes.held_out
    assert all(vote.outcome in ("b", "tie") for vote in noise.flipped(votes, 1.0, 17).train)


def test_the_reward_model_is_measured_beside_the_length_rule(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reward_model.main([*options, "--plot", str(tmp_path / "plot.png")]) == 0
    printed = capsys.readouterr().out
    for name in ("the longer answer wins", *reward_model.VARIANTS, "best:"):
        assert name in printed
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_noise_is_measured_with_the_defences_on_and_off(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert noise.main(options) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[2:8]] == [
        [share, name] for name in ("off", "on") for share in ("0%", "10%", "25%")
    ]
    assert [row[3:5] for row in rows[2:8] if row[0] == "0%"] == [["0.000", "-"]] * 2


def test_what_noise_costs_has_an_interval_over_the_splits(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert noise.main([*options, "--seeds", "2", "--defences", "on"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [row for row in rows if row[1:2] == ["on"]]
    assert [row[0] for row in shown] == ["0%", "10%", "25%"]
    for row in shown:
        lost, lower, upper = float(row[3]), float(row[4]), float(row[6])
        assert lower <= lost <= upper


def test_trainings_of_several_seeds_hold_out_other_questions(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out: list[frozenset[str]] = []
    measured = reward_model.measured

    def recorded(plan: RunPlan, votes: Votes, name: str) -> dict[str, Any]:
        held_out.append(frozenset(vote.prompt.id for vote in votes.held_out))
        return measured(plan, votes, name)

    monkeypatch.setattr(reward_model, "measured", recorded)
    whole = [*options, "--size", "0", "--held-out", "0", "--seeds", "2", "--only", "one head"]
    assert reward_model.main(whole) == 0
    assert len(set(held_out)) == 2
    [rule] = [row for row in capsys.readouterr().out.splitlines() if row.startswith("the longer")]
    # The polite answer is the longer one of every pair, so both splits agree on the rule.
    assert rule.split()[-4:] == ["1.000", "1.000", "to", "1.000"]


def test_the_heads_alone_are_measured_over_many_draws(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [*options, "--size", "0", "--held-out", "0", "--heads-alone", "--draws", "2"]
    assert noise.main(whole) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: float(row[1]) for row in rows if row and row[0] in ("0%", "10%", "25%")}
    # Polite answers against one and the same rude one: a line between them is easily found.
    assert shown["0%"] == 1.0
    assert set(shown) == {"0%", "10%", "25%"}


def test_readings_are_compared_at_each_depth(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [*options, "--size", "0", "--held-out", "0", "--heads-alone"]
    assert reward_model.main(whole) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {(row[0], row[-6]): row[-5:-3] for row in rows if row[-2:-1] == ["to"]}
    assert len(found) == 10
    assert all(share == "1.000" for shares in found.values() for share in shares)


def test_each_rater_is_a_vote_and_the_passages_are_read(tmp_path: Path, base: Path) -> None:
    row = {
        "id": "p1",
        "group": "g1",
        "source": "test",
        "prompt": [{"role": "user", "content": "Who?"}],
        "chosen": "Ada.",
        "rejected": "Nobody.",
        "meta": {"votes": [2, 0, 2, 1]},
    }
    rows = [{**row, "id": f"p{at}", "group": f"g{at}"} for at in range(12)]
    question = {"id": "g1", "passages": [{"title": "People", "text": "Ada signs."}]}
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "questions.jsonl").write_text(json.dumps(question), encoding="utf-8")
    found = votes_of(["--data", str(tmp_path), "--base", str(base)])
    own = [vote for vote in found.train if vote.prompt.id == found.train[0].prompt.id]
    assert [vote.outcome for vote in own] == ["a", "tie", "a", "b"]
    assert len({vote.rater for vote in own}) == 4
    assert all(vote.outcome == "a" for vote in found.held_out)
    assert found.held_out
    [told] = {v.prompt.passages for v in (*found.train, *found.held_out) if v.prompt.id == "g1"}
    assert [(passage.title, passage.text) for passage in told] == [("People", "Ada signs.")]
