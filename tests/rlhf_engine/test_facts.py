"""The exact facts of a text, and how many of a gold answer's an answer states."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rlhf_engine.facts import facts, facts_found
from rlhf_engine.similarity import answer_similarity

HOSTILE = Path(__file__).parents[3] / "shared" / "data" / "hostile-strings"


def found(text: str) -> set[str]:
    return {f"{fact.kind} {fact.value}" for fact in facts(text)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You get 28 days a year.", {"measure 28 day"}),
        ("It takes five working days.", {"measure 5 day"}),
        ("You get 28 days [1]. That is all [12].", {"measure 28 day"}),
        ("Within 3-5 days.", {"number 3", "measure 5 day"}),
        ("There are 1,200 of them.", {"number 1200"}),
        ("There are 1\u202f200.50 of them.", {"number 1200.5"}),
        ("Twenty-eight or twenty nine.", {"number 28", "number 29"}),
        ("About two hundred.", {"number 200"}),
        ("It is the 3rd try.", {"number 3"}),
        ("\u0663 tries", {"number 3"}),
        ("Pay \u20ac1,200.", {"amount 1200 eur"}),
        ("Pay 1200 euros or EUR 7.50.", {"amount 1200 eur", "amount 7.5 eur"}),
        ("Up to \u00a35k, or $2 million.", {"amount 5000 gbp", "amount 2000000 usd"}),
        ("We match 6 % or six percent.", {"percent 6"}),
        ("On 3rd of March 2026.", {"date 2026-03-03"}),
        ("On March 3, 2026, or 2026-03-03.", {"date 2026-03-03"}),
        ("On 3 March.", {"date 03-03"}),
        ("On 25/12/2026 and 12.25.2026.", {"date 2026-12-25"}),
        ("On 03/04/2026.", {"date 3/4/2026"}),
        ("From 7.30 am to 7 p.m. or 19:30.", {"time 07:30", "time 19:00", "time 19:30"}),
        ("At noon and midnight.", {"time 12:00", "time 00:00"}),
        ("Mail Help.Desk@heed.example.", {"email help.desk@heed.example"}),
        ("See https://www.heed.example/leave/.", {"link heed.example/leave"}),
        ("Call +44 (0)20 7946 0958.", {"phone 442079460958"}),
        ("Call (555) 123-4567.", {"phone 5551234567"}),
        ("On the third floor, room B12.", {"place floor 3", "place room b12"}),
        ("On the ground floor or on floor 3.", {"place floor ground", "place floor 3"}),
        ("Send form W-4 by VPN2.", {"code w-4", "code vpn2"}),
        ("Ask Maria Keller's team in Leeds.", {"name maria keller", "name leeds"}),
        ("One of them comes first. The manager signs.", set()),
        ("Yes", set()),
        ("", set()),
        ("Die Kantine ist im Haus an der Ecke der Stra\u00dfe und hat Tische aus Holz.", set()),
    ],
)  # fmt: skip
def test_the_facts_of_a_text(text: str, expected: set[str]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "share"),
    [
        ("You have 28 days.", "It is twenty-eight days a year.", 1.0),
        ("You have 28 days.", "You have 28 weeks.", 0.0),
        ("You have 28 days.", "You have 280 days.", 0.0),
        ("The limit is 20.", "The limit is 20 days.", 1.0),
        ("It is 120 euros a night.", "It is \u20ac120.00 a night.", 1.0),
        ("It is 120 euros a night.", "It is $120 a night.", 0.0),
        ("It opens at 7:30 and closes at 19:00.", "It opens at 7.30 a.m.", 0.5),
        ("On 3 March.", "On March 3rd, 2026.", 1.0),
        ("On 3 March 2026.", "On March 3rd.", 0.0),
        ("Ask Maria Keller in Leeds.", "MARIA KELLER, at leeds.", 1.0),
        ("Ask Maria Keller in Leeds.", "Mariana Keller, in Leeds.", 0.5),
        ("There is 1 car.", "There is one car.", 1.0),
        ("It is on floor 3.", "It is on the 3rd floor.", 1.0),
        ("It is on floor 3.", "It is on floor 13.", 0.0),
        ("It is on floor 3.", "", 0.0),
        ("Ask your manager.", "Ask 7 managers.", None),
    ],
)
def test_the_share_of_gold_facts_in_an_answer(gold: str, answer: str, share: float | None) -> None:
    assert facts_found(answer, gold) == share
    assert answer_similarity([answer], [gold])[0].facts == share


@pytest.mark.parametrize(
    "part", ["a", "1", "1 ", "a-", "1,", "a@", "a.", "A ", "+1", "(", "five ", "five aa ", "www."]
)
def test_no_text_takes_long(part: str) -> None:
    """A pattern that tries every split of a text would take hours for these."""
    began = time.process_time()
    facts(part * 50_000)
    assert time.process_time() - began < 20


def test_every_text_holds_all_of_its_own_facts() -> None:
    if not HOSTILE.exists():
        pytest.skip("the hostile strings are not in this checkout")
    texts = json.loads((HOSTILE / "blns.json").read_text(encoding="utf-8"))
    vectors = (HOSTILE / "html-sanitiser-vectors.jsonl").read_text(encoding="utf-8")
    texts += [json.loads(line)["payload"] for line in vectors.strip().split("\n")]
    assert len(texts) > 500
    for text in texts:
        assert facts_found(text, text) in (None, 1.0), text
