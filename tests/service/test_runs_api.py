"""What operators and reviewers see of runs, and decide, over HTTP; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from litestar import Litestar
from sqlalchemy import Engine
from sqlmodel import select

from rlhf_engine import Progress, RunFolder
from service import policies, run_curves
from service.account_tables import AuditEntry
from service.database import session
from service.settings import TrainingSettings
from service.tables import PolicyVersion, Promotion, TrainingRun, now
from tests.service.trained import BATCHES, SECRET, Trained, train
from tests.service.web_client import Caller, web_app

SCHEDULE = TrainingSettings(schedule="0 2 * * *", min_new_comparisons=7)


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Iterator[Litestar]:
    with web_app(engine, tmp_path / "home", visitors="operator", training=SCHEDULE) as made:
        yield made


@pytest.fixture
def operator(app: Litestar) -> Caller:
    return Caller(app)


@pytest.fixture
def trained(engine: Engine, tmp_path: Path) -> Trained:
    return train(engine, tmp_path / "run")


def acts(engine: Engine) -> list[tuple[str, str | None]]:
    with session(engine) as opened:
        return [(row.action, row.target) for row in opened.exec(select(AuditEntry))]


def test_the_list_tells_state_trigger_duration_and_what_comes_next(
    operator: Caller, trained: Trained
) -> None:
    shown = operator.get("/api/runs").json()
    (run,) = shown["runs"]
    assert (run["id"], run["state"], run["at_schedule"]) == (trained.run, "promoted", True)
    assert run["seconds"] == pytest.approx(720, abs=30)
    assert (run["candidate"], run["candidate_id"]) == (2, trained.ppo)
    assert run["win_rate"] == {"value": 0.64, "low": 0.55, "high": 0.73}
    assert shown["schedule"]["next"].endswith("T02:00:00Z")
    assert shown["schedule"]["needed"] == 7
    assert shown["evidence"]["comparisons"] == {"total": 6, "simulated": 0}
    assert shown["next"] is None


def test_a_long_list_comes_in_pages(operator: Caller, engine: Engine) -> None:
    with session(engine) as opened:
        for at in range(60):
            moment = now() - timedelta(minutes=at // 2)
            run = TrainingRun(
                id=f"r{at:02d}", folder="f", requested_by="a", reason="b", created_at=moment
            )
            opened.add(run)
    first = operator.get("/api/runs").json()
    second = operator.get("/api/runs", after=first["next"]).json()
    seen = [run["id"] for page in (first, second) for run in page["runs"]]
    assert (len(first["runs"]), len(second["runs"]), second["next"]) == (50, 10, None)
    assert len(set(seen)) == 60
    assert operator.get("/api/runs", after="nonsense").status_code == 422


def test_the_gate_is_told_in_sentences(operator: Caller, trained: Trained) -> None:
    gate = operator.get(f"/api/runs/{trained.run}").json()["gate"]
    assert [rule["passed"] for rule in gate["rules"]] == [True, True, True]
    assert gate["rules"][0]["found"] == "It wins 64% (55% to 73%) of 40 questions."
    assert "more than 50%" in gate["rules"][0]["asked"]
    assert gate["rules"][1]["found"] == "It went from 41.2 to 46.9."
    assert gate["rules"][2]["found"] == "They went from 21 to 24 tokens on average."


def test_stages_have_times_and_a_running_run_tells_how_long_it_will_take(
    operator: Caller, engine: Engine, trained: Trained, tmp_path: Path
) -> None:
    done = operator.get(f"/api/runs/{trained.run}").json()
    assert [stage["state"] for stage in done["planned"]] == ["done"] * 5
    assert done["planned"][1]["seconds"] == 101
    assert done["planned"][1]["began_at"] < done["planned"][1]["ended_at"]
    assert (done["left_s"], done["may"]) == (None, [])
    folder = RunFolder(tmp_path / "now")
    folder.path.mkdir()
    folder.write_progress(Progress("snapshot", 1, 2, "freezing", left_s=3.0))
    with session(engine) as opened:
        run = TrainingRun(
            state="running",
            folder=str(folder.path),
            requested_by="Ada",
            reason="a test",
            started_at=now() - timedelta(seconds=40),
        )
        opened.add(run)
    shown = operator.get(f"/api/runs/{run.id}").json()
    assert [stage["state"] for stage in shown["planned"]] == ["running", *["waiting"] * 4]
    assert shown["progress"]["note"] == "freezing"
    # 60 of the 100 seconds that the snapshot took last time, and 101 to 104 for the others.
    assert shown["left_s"] == pytest.approx(60 + 101 + 102 + 103 + 104, abs=5)
    assert (shown["may"], shown["at_schedule"]) == (["cancel"], False)


def test_curves_come_with_bands_and_at_most_200_points(operator: Caller, trained: Trained) -> None:
    curves = {
        curve["id"]: curve for curve in operator.get(f"/api/runs/{trained.run}/curves").json()
    }
    assert set(curves) == {"reward", "kl", "entropy", "value", "length", "sft"}
    score, after = curves["reward"]["series"]
    assert curves["reward"]["x"] == list(range(BATCHES))
    assert (score["values"][5], score["low"][5], score["high"][5]) == pytest.approx((0.5, 0.3, 0.7))
    assert after["low"] is None
    folder = RunFolder(trained.folder)
    for step in range(20, 1000):
        folder.append_metrics({"step": step, "sft/loss": float(step % 2)})
    (sft,) = (c for c in run_curves.read_curves(trained.folder) if c.panel.id == "sft")
    assert len(sft.x) == len(sft.series[0].values) == 200
    assert sft.series[0].values[-1] == pytest.approx(0.5, abs=0.11)
    assert sft.x[-1] == 999
    assert operator.get(f"/api/runs/{trained.run}/plot.png").status_code == 200


def test_the_log_is_followed_by_whole_lines(operator: Caller, trained: Trained) -> None:
    path = f"/api/runs/{trained.run}/log"
    first = operator.get(path).json()
    assert first["text"].count("\n") == 5
    with (trained.folder / "worker.log").open("a") as log:
        log.write("\x1b[32mone more\x1b[0m\nhalf a li")
    more = operator.get(path, after=str(first["ends_at"])).json()
    assert more["text"] == "one more\n"
    with (trained.folder / "worker.log").open("a") as log:
        log.write("ne\n" + "x" * 99 + "\n" * 1 + ("y" * 99 + "\n") * 2000)
    assert operator.get(path, after=str(more["ends_at"])).json()["text"].startswith("yyyy")
    long = operator.get(path).json()
    assert long["begins_at"] > 100_000
    assert set(long["text"].splitlines()) == {"y" * 99}
    (trained.folder / "worker.log").unlink()
    assert operator.get(path).json()["text"] == ""


def test_samples_show_both_answers_in_pages(operator: Caller, trained: Trained) -> None:
    path = f"/api/runs/{trained.run}/samples"
    first = operator.get(path).json()
    second = operator.get(path, after=str(first["next"])).json()
    assert (len(first["rows"]), len(second["rows"]), second["next"]) == (20, 5, None)
    row = second["rows"][0]
    assert (row["question"], row["live"]) == ("Held-out question 20?", "Perhaps 20 days.")
    assert (row["reward_live"], row["reward_candidate"]) == (-0.5, 0.75)
    assert operator.get(path, after="3").status_code == 422
    (trained.folder / "evaluation" / "answers.jsonl").unlink()
    assert operator.get(path).status_code == 404


def test_a_run_is_cancelled_and_resumed_and_both_are_recorded(
    operator: Caller, engine: Engine, trained: Trained
) -> None:
    run = operator.post("/api/runs", {"reason": "to see"}).json()
    assert run["requested_by"] == operator.me["name"]
    assert operator.post(f"/api/runs/{run['id']}/cancel").json()["state"] == "cancelled"
    assert operator.get(f"/api/runs/{run['id']}").json()["may"] == ["resume"]
    assert operator.post(f"/api/runs/{run['id']}/resume").json()["state"] == "queued"
    assert operator.post(f"/api/runs/{trained.run}/resume").status_code == 409
    assert operator.post("/api/runs/none/resume").status_code == 404
    target = f"run:{run['id']}"
    assert acts(engine) == [(f"run.{verb}", target) for verb in ("started", "cancelled", "resumed")]


@pytest.fixture
def waiting(engine: Engine, tmp_path: Path) -> Trained:
    made = train(engine, tmp_path / "run", state="awaiting_approval")
    with session(engine) as opened:
        policies.set_candidate(opened, made.ppo, "the gate")
    return made


def test_a_candidate_is_approved(operator: Caller, engine: Engine, waiting: Trained) -> None:
    assert operator.get(f"/api/runs/{waiting.run}").json()["may"] == ["approve", "reject"]
    answer = operator.post(f"/api/runs/{waiting.run}/approve", {"reason": "read 20 answers"})
    assert answer.status_code == 202
    with session(engine) as opened:
        asked = opened.exec(select(Promotion)).one()
    assert (asked.version_id, asked.run_id, asked.state) == (waiting.ppo, waiting.run, "requested")
    assert (asked.by, asked.evidence) == (operator.me["name"], "read 20 answers")
    refused = operator.post(f"/api/runs/{waiting.run}/reject")
    assert (refused.status_code, "about to go live" in refused.json()["detail"]) == (409, True)
    assert acts(engine) == [("run.approved", f"run:{waiting.run}")]


def test_a_candidate_is_rejected_for_good(
    operator: Caller, engine: Engine, waiting: Trained
) -> None:
    answer = operator.post(f"/api/runs/{waiting.run}/reject", {"reason": "it is rude"})
    assert answer.json()["state"] == "refused"
    assert answer.json()["error"] == "rejected by a person: it is rude", "the record says by whom"
    with session(engine) as opened:
        assert opened.get_one(PolicyVersion, waiting.ppo).state == "rejected"
        assert policies.aliased(opened, "candidate") is None
    assert operator.post(f"/api/runs/{waiting.run}/approve").status_code == 409
    assert operator.post(f"/api/policies/{waiting.ppo}/promote").status_code == 409
    assert acts(engine) == [("run.rejected", f"run:{waiting.run}")]


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs",
        "/api/runs/{run}",
        "/api/runs/{run}/log",
        "/api/runs/{run}/curves",
        "/api/runs/{run}/samples",
        "/api/runs/{run}/plot.png",
        "/api/runs/{run}/snapshot",
        "/api/runs/{run}/snapshot/votes",
        "/api/runs/{run}/snapshot/thumbs",
        "/api/runs/{run}/snapshot/gold-answers",
        "/api/runs/{run}/snapshot/documents",
        "/api/policies",
        "/api/policies/2",
        "/api/leaderboard",
    ],
)
def test_texts_of_people_stand_only_in_the_snapshot_for_reviewers(
    engine: Engine, tmp_path: Path, trained: Trained, path: str
) -> None:
    path = path.format(run=trained.run)
    with web_app(engine, tmp_path / "home", visitors="reviewer") as app:
        reviewer = Caller(app)
        answer = reviewer.get(path)
        assert answer.status_code == 200
        shows = path.endswith(("/votes", "/thumbs"))
        assert (SECRET.encode() in answer.content) is shows
        for act in ("cancel", "resume", "approve", "reject"):
            assert reviewer.post(f"/api/runs/{trained.run}/{act}").status_code == 403
        assert reviewer.post("/api/policies/rollback").status_code == 403
    with web_app(engine, tmp_path / "home", visitors="employee") as app:
        assert Caller(app).get(path).status_code == 403
