"""The heads that training begins with: the best penalised linear forecast, or none; and what is
watched on the way is kept where it was best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_engine.backbone import SCORE_KEY, Backbone, read_adapter
from rlhf_engine.first_heads import FOLDS, Differences, first_heads, levelled, read_differences
from rlhf_engine.pair_rows import tokenised
from rlhf_engine.plan import RewardPlan
from rlhf_engine.preferences import gather_pairs
from rlhf_engine.records import Comparison, Prompt
from rlhf_engine.reward_training import MIN_WATCHED, split_watched
from tests.rlhf_engine.reward_runs import learn, reward_stage
from tests.tiny import tiny_base

WIDTH = 12


def drawn_pairs(count: int, flipped: float, seed: int = 0) -> tuple[Differences, torch.Tensor]:
    """Pairs whose better answer a hidden direction says, a share of them the wrong way round;
    and that direction [h]."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(WIDTH, generator=torch.Generator().manual_seed(99))
    states = torch.randn(count, WIDTH, generator=draw)
    states *= torch.sign(states @ hidden).unsqueeze(1)
    states[torch.rand(count, generator=draw) < flipped] *= -1
    pairs = Differences(
        states,
        torch.full((count,), 0.9),
        torch.zeros(count),
        torch.ones(2, count),
        torch.arange(count) // 2,
    )
    return pairs, hidden


def test_the_heads_solve_the_penalised_problem_and_point_where_the_votes_do() -> None:
    pairs, hidden = drawn_pairs(200, 0.0)
    found = first_heads(pairs, torch.ones(WIDTH))
    assert found is not None
    left = pairs.target - torch.sigmoid(found.heads @ pairs.states.T)
    # At the minimum the votes' pull and the penalty's are equal.
    torch.testing.assert_close(left @ pairs.states, found.ridge * found.heads, atol=0.05, rtol=0.01)
    assert torch.cosine_similarity(found.heads[0], hidden, dim=0) > 0.9
    assert found.accuracy > 0.9


def test_the_more_votes_are_flipped_the_less_the_heads_believe() -> None:
    clean, _ = drawn_pairs(60, 0.0)
    noisy, _ = drawn_pairs(60, 0.3)
    sure, doubtful = (first_heads(each, torch.ones(WIDTH)) for each in (clean, noisy))
    assert sure is not None
    assert doubtful is not None
    assert doubtful.ridge > sure.ridge
    assert doubtful.accuracy < sure.accuracy
    assert doubtful.heads.norm() < sure.heads.norm() / 2


def test_votes_that_contradict_each_other_still_give_heads_that_mean_little() -> None:
    pairs, _ = drawn_pairs(60, 0.5)
    found = first_heads(pairs, torch.ones(WIDTH))
    assert found is not None
    assert found.ridge >= 10
    assert (found.heads @ pairs.states.T).abs().mean() < 0.5


def test_votes_that_say_nothing_and_too_few_questions_give_no_heads() -> None:
    pairs, _ = drawn_pairs(40, 0.0)
    ties = pairs._replace(target=torch.full((40,), 0.5))
    assert first_heads(ties, torch.ones(WIDTH)) is None
    assert first_heads(pairs.of(torch.arange(40) < 8), torch.ones(WIDTH)) is None


def test_heads_fit_raw_states_whatever_their_scale() -> None:
    pairs, _ = drawn_pairs(100, 0.0)
    scale = torch.linspace(0.1, 10, WIDTH)
    plain, scaled = first_heads(pairs, torch.ones(WIDTH)), first_heads(pairs, scale)
    assert plain is not None
    assert scaled is not None
    torch.testing.assert_close(scaled.heads * scale, plain.heads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def votes(questions: int) -> list[Comparison]:
    """Two votes a question, of which one is right and one the wrong way round."""
    answers = ("Ask the service desk.", "You have 30 days of leave a year.")
    found = []
    for at in range(questions):
        prompt = Prompt(f"q{at}", f"Question number {at}?")
        found.append(Comparison(f"{at}a", prompt, *answers, "a" if at % 2 else "b", rater="ada"))
        other = (f"{answers[0]} Yes.", f"{answers[1]} No.")
        found.append(Comparison(f"{at}b", prompt, *other, "a", rater="bob"))
    return found


def test_an_answer_has_the_state_that_the_scores_are_read_in(base: Path, tmp_path: Path) -> None:
    stage = reward_stage(tmp_path, base)
    backbone = Backbone.load(base)
    pairs = gather_pairs(votes(3), [], stage.plan.reward_model).pairs
    rows, _ = tokenised(backbone.tokenizer, pairs, stage.plan, torch.ones(1, len(pairs)))
    heard: list[tuple[int, int]] = []
    found, scale = read_differences(backbone, rows, 1, lambda *at: heard.append(at))
    assert heard[-1] == (len(rows), len(rows))
    assert found.states.shape == (6, backbone.width)
    states = torch.cat([states_of(backbone, row) for row in rows])
    pair = rows[0]["pairs"][0]
    apart = (states[pair["chosen"]] - states[pair["rejected"]]) / scale
    expected = levelled(apart.unsqueeze(0), states.mean(dim=0) / scale)
    torch.testing.assert_close(found.states[:1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def states_of(backbone: Backbone, row: dict[str, Any]) -> torch.Tensor:
    """The states of a row's answers, read one prompt at a time."""
    answers = backbone.group([row["prompt_ids"]], row["answers"])
    states = backbone.states(answers, 1)
    return torch.stack(
        [
            own[1 : length + 1].mean(dim=0)
            for own, length in zip(states, answers.lengths, strict=True)
        ]
    )


def test_the_first_heads_score_the_typical_answer_0(base: Path, tmp_path: Path) -> None:
    """Differences alone leave the level open: here it would lie far from 0."""
    stage = reward_stage(tmp_path, base)
    backbone = Backbone.load(base)
    pairs = gather_pairs(several(10, 3), [], stage.plan.reward_model).pairs
    rows, _ = tokenised(backbone.tokenizer, pairs, stage.plan, torch.ones(2, len(pairs)))
    found = first_heads(*read_differences(backbone, rows, 1, lambda *_: None))
    assert found is not None
    scores = torch.cat([states_of(backbone, row) for row in rows]) @ found.heads.T
    assert scores.std(dim=0).min() > 0.1
    assert scores.mean(dim=0).abs().max() < 0.01
    assert found.accuracy > 0.9


def test_nothing_but_the_level_is_taken_off() -> None:
    typical = torch.tensor([0.0, 3.0, 4.0])
    differences = torch.tensor([[1.0, 0.6, 0.8], [2.0, -0.8, 0.6], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.0, 0.0, 0.0], [2.0, -0.8, 0.6], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(levelled(differences, typical), expected)
    torch.testing.assert_close(levelled(differences, torch.zeros(3)), differences)


def several(questions: int, pairs: int) -> list[Comparison]:
    """So many pairs to each question, which every rater spells in another way."""
    spelled = ("Question number {}?", "question  number {}", "QUESTION, number {}!")
    return [
        Comparison(
            f"{at}-{pair}",
            Prompt(f"q{at}-{pair}", spelled[pair % 3].format(at)),
            f"Right answer {pair}.",
            f"Wrong answer {pair}.",
            "a",
            rater=f"r{pair}",
        )
        for at in range(questions)
        for pair in range(pairs)
    ]


@pytest.mark.parametrize(("questions", "pairs"), [(10, 3), (4, 6)])
def test_pairs_of_one_question_stay_in_one_fold(
    base: Path, tmp_path: Path, questions: int, pairs: int
) -> None:
    stage = reward_stage(tmp_path, base)
    backbone = Backbone.load(base)
    votes = gather_pairs(several(questions, pairs), [], stage.plan.reward_model).pairs
    rows, _ = tokenised(backbone.tokenizer, votes, stage.plan, torch.ones(1, len(votes)))
    assert len(rows) == questions * pairs
    found, scale = read_differences(backbone, rows, 1, lambda *_: None)
    expected = torch.arange(questions).repeat_interleave(pairs)
    assert torch.equal(found.questions, expected)
    heads = first_heads(found, scale)
    assert (heads is None) == (questions < FOLDS)


def test_questions_are_watched_whole_and_only_where_enough_votes_are_left() -> None:
    plan = RewardPlan(watched_percent=30)
    pairs = gather_pairs(votes(100), [], plan).pairs
    learnt, watched = split_watched(pairs, plan)
    assert len(watched) >= MIN_WATCHED
    assert len(learnt) + len(watched) == len(pairs)
    assert not {p.prompt.question for p in learnt} & {p.prompt.question for p in watched}
    assert split_watched(pairs[:40], plan) == (pairs[:40], [])
    assert split_watched(pairs, RewardPlan(watched_percent=0)) == (pairs, [])


def test_a_training_that_only_forgets_ends_where_it_began(base: Path, tmp_path: Path) -> None:
    stage = reward_stage(
        tmp_path, base, learning_rate=0.3, epochs=3.0, watched_percent=30, heads=1, patience=2
    )
    figures = learn(stage, votes(100)).figures
    losses = figures["watched_losses"]
    assert losses[0] == min(losses) < losses[-1]
    assert (figures["best_step"], figures["stopped_early"]) == (0, True)
    _, trained = read_adapter(stage.path / "adapter")
    _, began = read_adapter(stage.run.stage_path("sft") / "adapter")
    heads = trained.pop(SCORE_KEY)
    assert heads.shape == (1, 64)
    # Of the two layers an answer goes through the first.
    assert set(trained) == {name for name in began if ".layers.0." in name}
    for name, value in trained.items():
        assert torch.equal(value, began[name]), name


def test_the_best_look_on_the_way_is_kept(base: Path, tmp_path: Path) -> None:
    stage = reward_stage(tmp_path, base, epochs=2.0, watched_percent=30, heads=1)
    right = [vote for vote in votes(140) if vote.rater == "bob"]
    figures = learn(stage, right).figures
    losses = figures["watched_losses"]
    assert figures["watched"] >= MIN_WATCHED
    assert len(losses) == 5
    assert figures["best_step"] > 0
    assert min(losses) < losses[0]
