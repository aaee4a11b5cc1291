"""Training, policies and the leaderboard in a browser: what is shown, and every act on them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from sqlalchemy import Engine
from sqlmodel import select

from rlhf_engine import Progress, RunFolder
from service import policies
from service.account_tables import AuditEntry
from service.database import session
from service.tables import PolicyVersion, TrainingRun, now
from tests.journeys.server import Served, eventually
from tests.pages.conftest import Browse, Theme, Width, axe, fits, shot
from tests.service.trained import SECRET, Trained, train
from tests.service.voted import add_voter, write_votes
from tests.versions import store_version

looks = pytest.mark.parametrize(
    ("width", "theme"),
    [("desktop", "light"), ("desktop", "dark"), ("phone", "dark")],
)


@pytest.fixture(scope="module")
def trained(
    site: Served, page_database: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """A run that waits for approval, and votes between version 0 and what it made."""
    folder, settings = tmp_path_factory.mktemp("trained"), site.settings
    eventually(lambda: site.visitor().get("/health/ready").status_code == 200)
    base = Path(settings.base_policy)
    stored = [store_version(base, settings.policies, folder, seed).id for seed in (1, 2)]
    made = train(
        page_database,
        folder / "run",
        state="awaiting_approval",
        votes=30,
        versions=(stored[0], stored[1]),
    )
    with session(page_database) as opened:
        policies.set_candidate(opened, made.ppo, "the gate")
        live = policies.live_version(opened).id
        add_voter(opened)
        votes = [(1, 0, "A")] * 60 + [(0, 1, "A")] * 20 + [(1, 0, "B")] * 10 + [(1, 0, "tie")] * 10
        write_votes(opened, votes, versions=(live, made.ppo))
    return made


@pytest.fixture(scope="module")
def at_work(page_database: Engine, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that somebody else conducts, by the id "atwork"."""
    folder = RunFolder(tmp_path_factory.mktemp("atwork"))
    folder.write_progress(Progress("ppo", 3, 12, "rollout batch 3", left_s=40.0))
    (folder.path / "worker.log").write_text("first line\n")
    with session(page_database) as opened:
        opened.add(
            TrainingRun(
                id="atwork",
                state="running",
                folder=str(folder.path),
                requested_by="Ada",
                reason="a test",
                lease_holder="another server",
                lease_expires_at=now().replace(year=now().year + 1),
                started_at=now(),
            )
        )
    return folder


def settled(page: Page) -> None:
    expect(page.get_by_text("Loading…")).to_have_count(0)
    expect(page.get_by_text("Counting the votes…")).to_have_count(0, timeout=20_000)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def acts(engine: Engine) -> list[str]:
    with session(engine) as opened:
        return [row.action for row in opened.exec(select(AuditEntry)) if "sign" not in row.action]


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("tab", name=re.compile(name))


def by_keys(page: Page, target: Locator, limit: int = 60) -> None:
    """Come to an element by Tab alone, and press Enter."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if target.evaluate("one => one === document.activeElement"):
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"{target} is not reached by Tab")


@looks
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/runs", "runs"),
        ("/runs/{run}", "run"),
        ("/runs/{run}?tab=gate", "gate"),
        ("/runs/{run}?tab=curves", "curves"),
        ("/runs/{run}?tab=samples", "samples"),
        ("/runs/{run}?tab=learnt", "learnt"),
        ("/runs/{run}?tab=log", "log"),
        ("/runs/atwork", "at-work"),
        ("/policies", "policies"),
        ("/policies/2", "policy"),
        ("/leaderboard", "leaderboard"),
    ],
)
@pytest.mark.usefixtures("at_work")
def test_every_page_fits_and_breaks_no_rule(
    browse: Browse, trained: Trained, path: str, name: str, width: Width, theme: Theme
) -> None:
    page = browse(path.format(run=trained.run), width, theme)
    settled(page)
    if name not in ("policy", "policies", "runs", "leaderboard"):
        expect(page.get_by_role("tabpanel").first).not_to_be_empty()
    if name == "curves":
        expect(page.locator(".plot canvas").first).to_be_visible()
    axe(page)
    fits(page)
    shot(page, f"operate-{name}-{width}-{theme}")


def test_the_list_leads_to_a_run_and_its_gate_by_keyboard(browse: Browse, trained: Trained) -> None:
    page = browse("/runs")
    row = page.get_by_role("row").filter(has_text="waits for approval")
    expect(row).to_contain_text("the schedule")
    expect(row).to_contain_text("64% (55% to 73%)")
    expect(page.get_by_text("No runs are scheduled")).to_be_visible()
    by_keys(page, row.get_by_role("link").first)
    expect(page).to_have_url(re.compile(f"/runs/{trained.run}$"))
    expect(page.get_by_role("heading", name="Training run")).to_be_focused()
    tab(page, "Stages").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("It wins 64% (55% to 73%) of 40 questions.")).to_be_visible()
    expect(page.get_by_role("tabpanel").get_by_text("passed", exact=True)).to_have_count(3)
    expect(page).to_have_url(re.compile("tab=gate"))


def test_curves_are_drawn_and_stand_as_tables(browse: Browse, trained: Trained) -> None:
    page = browse(f"/runs/{trained.run}?tab=curves")
    figures = page.get_by_role("figure")
    expect(figures).to_have_count(6)
    reward = figures.filter(has_text="What the reward model thinks")
    expect(reward.locator("canvas")).to_be_visible()
    reward.get_by_text("As a table").click()
    table = reward.get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(13)
    expect(table.get_by_role("row").nth(6)).to_contain_text("0.5 (0.3 to 0.7)")
    expect(page.get_by_text("64% (55% to 73%) of held-out questions")).to_be_visible()
    page.get_by_text("As a picture, to keep").click()
    picture = page.get_by_role("img", name="All curves")
    expect(picture).to_be_visible()
    eventually(lambda: picture.evaluate("one => one.naturalWidth === 1"))
    axe(page)


def test_samples_stand_side_by_side_and_run_no_script(browse: Browse, trained: Trained) -> None:
    page = browse(f"/runs/{trained.run}?tab=samples")
    samples = page.get_by_role("list", name="Samples").locator("> li")
    expect(samples).to_have_count(20)
    expect(samples.nth(1)).to_contain_text("Perhaps 20 days.")
    expect(samples.nth(1)).to_contain_text("28 days a year.")
    expect(samples.nth(1)).to_contain_text("likeness 60, score 0.75")
    expect(samples.first.locator("img")).to_have_count(0)
    page.get_by_role("button", name="Show more").click()
    expect(samples).to_have_count(25)
    samples.nth(1).get_by_text("The right answer").click()
    expect(samples.nth(1)).to_contain_text("You have 28 days.")


def test_progress_and_the_log_are_less_than_two_seconds_behind(
    browse: Browse, at_work: RunFolder
) -> None:
    page = browse("/runs/atwork?tab=log")
    expect(page.get_by_text("rollout batch 3, 40 s left of this part")).to_be_visible()
    expect(page.get_by_role("log")).to_contain_text("first line")
    with (at_work.path / "worker.log").open("a") as log:
        log.write("second line\n")
    at_work.write_progress(Progress("ppo", 7, 12, "rollout batch 7", left_s=20.0))
    began = time.monotonic()
    expect(page.get_by_role("log")).to_contain_text("second line", timeout=2500)
    expect(page.get_by_text("rollout batch 7, 20 s left of this part")).to_be_visible(timeout=2500)
    # Chromium shares two cores with the server: what it needs to draw is in this too.
    assert time.monotonic() - began < 2.5
    at_work.write_progress(Progress("ppo", 3, 12, "rollout batch 3", left_s=40.0))


@pytest.mark.parametrize(
    ("path", "asked", "shown"),
    [
        ("/runs/atwork", "**/api/runs/atwork", "rollout batch 3"),
        ("/runs/atwork?tab=log", "**/api/runs/atwork/log*", "first line"),
    ],
)
@pytest.mark.usefixtures("at_work")
def test_a_server_that_needs_longer_than_a_second_is_waited_for(
    browse: Browse, site: Served, path: str, asked: str, shown: str
) -> None:
    page = browse("/account")
    held: list[Route] = []
    page.route(asked, lambda route: held.append(route))
    page.goto(site.url + path)
    while not held:
        page.wait_for_timeout(50)
    page.wait_for_timeout(1800)
    assert len(held) == 1, "it asked again before it had an answer"
    held[0].continue_()
    expect(page.get_by_text(shown).first).to_be_visible()


def test_a_version_leads_to_its_votes_answers_and_documents_in_two_clicks(
    browse: Browse, trained: Trained
) -> None:
    page = browse("/policies")
    page.get_by_role("link", name="version 2").click()
    page.get_by_role("link", name="30 votes").first.click()
    votes = page.get_by_role("list", name="Votes").locator("> li")
    expect(votes).to_have_count(25)
    expect(votes.filter(has_text=SECRET)).to_contain_text("The first was better")
    page.get_by_role("button", name="Show more").click()
    expect(votes).to_have_count(30)
    for name, text in (
        ("Right answers", "Grace Handbook"),
        ("Documents", "from handbook"),
        ("Thumbs", "Thumb up"),
    ):
        tab(page, name).click()
        expect(page.get_by_role("list", name=name)).to_contain_text(text)
    axe(page)
    page.reload()
    expect(page.get_by_role("list", name="Thumbs")).to_contain_text("Thumb down")
    page.go_back()
    page.get_by_role("link", name="documents").first.click()
    expect(page.get_by_role("list", name="Documents")).to_contain_text("Annual leave")


def test_the_leaderboard_tells_who_wins_and_how_sure_that_is(
    browse: Browse, trained: Trained
) -> None:
    page = browse("/leaderboard")
    row = page.get_by_role("row").filter(has_text="version 2")
    # 60 wins as first and none as second, 10 and 20 losses, 10 ties and one added: 65.5 of 101.
    # The first board after a start also loads the libraries.
    expect(row).to_contain_text(re.compile(r"65% \(5\d% to 7\d%\)"), timeout=20_000)
    expect(row).to_contain_text("100")
    expect(page.get_by_text("Sides matter too much.")).to_be_visible()
    # Of 90 votes with a winner here, and 30 on answers of version 0 alone: 80 + 15 of 120.
    expect(page.get_by_text(re.compile(r"79% \(7\d% to 8\d%\) of 120 votes"))).to_be_visible()
    page.get_by_label("As if all answers were equally long").press("Space")
    equal = page.get_by_role("region", name="Versions as if all answers were equally long")
    expect(equal).to_be_visible()
    expect(page.get_by_text("This view takes that out.")).to_be_visible()
    axe(page)
    page.get_by_label("Votes by").select_option("simulated raters")
    expect(page.get_by_text("Simulated raters have not compared")).to_be_visible()
    page.get_by_label("Given in").select_option("The last 7 days")
    expect(page.get_by_text("in this time")).to_be_visible()
    axe(page)


def test_a_reviewer_sees_everything_and_can_do_nothing(browse: Browse, trained: Trained) -> None:
    page = browse(f"/runs/{trained.run}")
    page.route(
        "**/api/me",
        lambda route: route.fulfill(json={**route.fetch().json(), "role": "reviewer"}),
    )
    page.reload()
    settled(page)
    expect(page.get_by_role("tab")).to_have_count(6)
    for name in ("Approve", "Reject", "Cancel", "Resume", "Train now"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)


def end_what_runs(engine: Engine) -> None:
    with session(engine) as opened:
        for run in opened.exec(select(TrainingRun).where(TrainingRun.state == "running")):
            run.state = "cancelled"
            opened.add(run)


def test_a_run_is_cancelled_and_resumed(
    browse: Browse, page_database: Engine, tmp_path: Path
) -> None:
    end_what_runs(page_database)
    with session(page_database) as opened:
        opened.add(
            TrainingRun(
                id="broken",
                state="interrupted",
                folder=str(tmp_path / "broken"),
                requested_by="Ada",
                reason="a test",
                error="the worker was killed",
                finished_at=now(),
            )
        )
    page = browse("/runs/broken")
    expect(page.get_by_text("the worker was killed")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("goes on from its last finished stage")
    axe(page)
    dialog.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("The run will go on.")).to_be_visible()
    # It has nothing to learn in an empty folder's place, or it begins: both end the wait.
    eventually(lambda: acts(page_database)[-1:] == ["run.resumed"])
    with session(page_database) as opened:
        run = opened.get_one(TrainingRun, "broken")
        run.state, run.lease_expires_at = "running", now().replace(year=now().year + 1)
        run.fencing += 1
        opened.add(run)
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    cancel.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").press("Enter")
    expect(page.get_by_text("The run was asked to stop.")).to_be_visible()
    eventually(lambda: acts(page_database)[-1:] == ["run.cancelled"])


def test_a_candidate_is_approved_with_grounds_and_rolled_back_with_a_confirmation(
    browse: Browse, page_database: Engine, trained: Trained
) -> None:
    page = browse(f"/runs/{trained.run}")
    page.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog", name="Make version 2 live?")
    axe(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Approve").press("Enter")
    dialog.get_by_label("On what grounds").fill("read 20 answers")
    page.keyboard.press("Enter")
    expect(page.get_by_text("went live")).to_be_visible(timeout=30_000)
    back = page.get_by_role("button", name="Roll back to version 0")
    back.click()
    dialog = page.get_by_role("dialog", name="Go back to version 0?")
    expect(dialog).to_contain_text("Answers that have begun end with version 2")
    axe(page)
    dialog.get_by_role("button", name="Cancel").click()
    with session(page_database) as opened:
        assert policies.live_version(opened).number == 2
    back.click()
    dialog.get_by_role("button", name="Go back to version 0").click()
    expect(page.get_by_text("Version 0 is on its way to being live.")).to_be_visible()

    def live() -> int:
        with session(page_database) as opened:
            return policies.live_version(opened).number

    eventually(lambda: live() == 0)
    page.goto(page.url.split("/runs")[0] + "/policies")
    done = page.get_by_role("region", name="What replaced what")
    expect(done.get_by_role("row").nth(1)).to_contain_text("back to version 0, from 2")
    expect(done.get_by_role("row").nth(2)).to_contain_text("read 20 answers")
    assert acts(page_database)[-2:] == ["run.approved", "policy.rolled_back"]
    page.get_by_role("link", name="version 2", exact=True).click()
    page.get_by_role("button", name="Make it live").click()
    page.get_by_role("dialog").get_by_role("button", name="Make it live").click()
    eventually(lambda: live() == 2)
    page.get_by_role("button", name="Roll back to version 0").click()
    page.get_by_role("dialog").get_by_role("button", name="Go back to version 0").click()
    eventually(lambda: live() == 0)


def test_a_candidate_is_rejected(
    browse: Browse,
    page_database: Engine,
    site: Served,
    trained: Trained,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, settings = tmp_path_factory.mktemp("rejected"), site.settings
    base = Path(settings.base_policy)
    stored = store_version(base, settings.policies, folder, 9).id
    with session(page_database) as opened:
        run = opened.get_one(TrainingRun, trained.run)
        number = len(policies.numbers(opened))
        opened.add(PolicyVersion(id=stored, number=number, kind="ppo", run_id=run.id))
        opened.flush()
        values = run.model_dump() | {"id": "torejected", "candidate_id": stored}
        opened.add(TrainingRun(**values | {"state": "awaiting_approval", "finished_at": None}))
    page = browse("/runs/torejected", "phone")
    page.get_by_role("button", name="Reject").click()
    dialog = page.get_by_role("dialog", name=f"Reject version {number}?")
    fits(page)
    axe(page)
    dialog.get_by_label("On what grounds").fill("it is rude")
    dialog.get_by_role("button", name="Reject").click()
    expect(page.get_by_text(re.compile("rejected by .*: it is rude"))).to_be_visible()
    expect(page.get_by_text("refused", exact=True)).to_be_visible()
    with session(page_database) as opened:
        assert opened.get_one(PolicyVersion, stored).state == "rejected"


def test_a_run_is_started_once(browse: Browse, page_database: Engine) -> None:
    end_what_runs(page_database)
    page = browse("/runs")
    page.get_by_role("button", name="Train now").click()
    page.get_by_role("dialog").get_by_role("button", name="Train now").click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f]{16}$"))
    expect(page.get_by_text("asked for on the page")).to_be_visible()
    eventually(lambda: acts(page_database)[-1:] == ["run.started"])
