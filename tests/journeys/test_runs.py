"""Training runs and approvals over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from rlhf_engine import Progress, RunFolder
from service import policies
from service.database import session
from service.tables import GateReport, PolicyVersion, StageReport, TrainingRun, now
from tests.journeys.server import Served, Visitor, eventually
from tests.versions import register, store_version

QUESTION = "How many days of annual leave do I have?"


def detail(visitor: Visitor, run_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = visitor.get(f"/api/runs/{run_id}").json()
    return shown


def test_a_run_without_evidence_fails_with_a_reason_and_answers_go_on(served: Served) -> None:
    visitor = served.visitor()
    started = visitor.post("/api/runs", json={"reason": "to see"})
    assert started.status_code == 202
    run_id = started.json()["id"]
    eventually(lambda: detail(visitor, run_id)["state"] not in ("queued", "running"))
    run = detail(visitor, run_id)
    assert (run["state"], run["reason"]) == ("failed", "to see")
    assert run["error"]
    assert visitor.ask(QUESTION).last == "done"


def held(served: Served, folder: Path, state: str, candidate: str | None = None) -> str:
    """A run that somebody else conducts."""
    with session(served.engine) as opened:
        run = TrainingRun(
            state=state,
            folder=str(folder),
            requested_by="Ada",
            reason="a test",
            candidate_id=candidate,
            lease_holder="another server",
            lease_expires_at=now().replace(year=now().year + 1),
            started_at=now(),
        )
        opened.add(run)
        return run.id


def test_a_running_run_shows_its_progress_stages_and_picture(
    served: Served, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_progress(Progress(stage="sft", step=3, total=12, note="epoch 1", left_s=40.0))
    run_id = held(served, folder.path, "running")
    visitor = served.visitor()
    assert visitor.get(f"/api/runs/{run_id}/plot.png").status_code == 404
    (folder.path / "plot.png").write_bytes(b"\x89PNG")
    with session(served.engine) as opened:
        opened.add(StageReport(run_id=run_id, stage="snapshot", seconds=0.2, figures={"n": 1}))
        opened.add(GateReport(run_id=run_id, passed=False, sentence="Too long.", figures={}))
    run = detail(visitor, run_id)
    assert run["progress"]["step"] == 3
    assert run["progress"]["left_s"] == 40.0
    assert run["stages"] == [{"stage": "snapshot", "seconds": 0.2, "figures": {"n": 1}}]
    assert run["gate"]["sentence"] == run["sentence"] == "Too long."
    assert run["has_plot"] is True
    assert run["evidence"] == {"total": 0, "simulated": 0}
    picture = visitor.get(f"/api/runs/{run_id}/plot.png")
    assert (picture.headers["content-type"], picture.content) == ("image/png", b"\x89PNG")


def test_a_second_run_waits_for_the_first_and_a_run_can_be_cancelled(
    served: Served, tmp_path: Path
) -> None:
    run_id = held(served, tmp_path / "run", "running")
    visitor = served.visitor()
    assert visitor.post("/api/runs", json={}).status_code == 409
    assert visitor.post(f"/api/runs/{run_id}/cancel", json={}).status_code == 202
    with session(served.engine) as opened:
        assert opened.get_one(TrainingRun, run_id).cancel_requested
    assert visitor.post("/api/runs/none/cancel", json={}).status_code == 404


def test_promoting_a_candidate_that_awaits_approval_ends_its_run(
    served: Served, tmp_path: Path
) -> None:
    settings = served.settings
    stored = store_version(Path(settings.base_policy), settings.policies, tmp_path, seed=1)
    with session(served.engine) as opened:
        version: PolicyVersion = register(opened, stored)
    run_id = held(served, tmp_path / "run", "awaiting_approval", version.id)
    visitor = served.visitor()
    approved = visitor.post("/api/policies/v1/promote", json={"evidence": "read 20 answers"})
    assert approved.json()["run_id"] == run_id
    eventually(lambda: detail(visitor, run_id)["state"] == "promoted")
    with session(served.engine) as opened:
        assert policies.live_version(opened).id == version.id
    eventually(lambda: httpx.get(f"{served.url}/health/ready").json()["version"] == 1)
