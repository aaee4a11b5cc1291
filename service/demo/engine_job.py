"""One piece of engine work in a process of its own, so that its memory is free afterwards.

`python -m service.demo.engine_job JOB.json OUT.json`; JOB holds {"kind": "measure" | "draw" |
"score", ...}. OUT is written whole, at the end; progress goes to stdout as `DONE TOTAL`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rlhf_engine
from rlhf_engine.files import write_json
from rlhf_engine.records import from_json, to_json
from service.demo.sizing import Speed
from service.errors import TrainingRunError
from service.worker_process import quiet_environment

NICENESS = 5
_ERROR = "error"

OnDone = Callable[[int, int], None]


def measure(folder: Path, base: Path, threads: int, dtype: str) -> Speed:
    """How fast this machine is; kept in `folder`, so that a second call returns at once."""
    job = {"kind": "measure", "base": str(base), "threads": threads, "dtype": dtype}
    return from_json(Speed, _result(folder, "speed", job))


def draw(
    folder: Path,
    name: str,
    base: Path,
    version: Path | None,
    prompts: Sequence[rlhf_engine.Prompt],
    settings: rlhf_engine.SamplingSettings,
    seeds: Sequence[int],
    plan: rlhf_engine.RunPlan,
    on_done: OnDone | None = None,
) -> list[rlhf_engine.SampledAnswer]:
    """As many answers a prompt as there are seeds for it, drawn by a policy; kept in `folder`
    under `name`."""
    job = {
        "kind": "draw",
        "base": str(base),
        "version": str(version) if version else None,
        "prompts": [to_json(prompt) for prompt in prompts],
        "settings": to_json(settings),
        "seeds": list(seeds),
        "plan": to_json(plan),
        "threads": plan.threads,
    }
    rows = _result(folder, name, job, on_done)
    return [from_json(rlhf_engine.SampledAnswer, row) for row in rows]


def score(
    folder: Path,
    name: str,
    plan: rlhf_engine.RunPlan,
    reward_model: Path,
    prompts: Sequence[rlhf_engine.Prompt],
    answers: Sequence[str],
    on_done: OnDone | None = None,
) -> list[float]:
    """Scores of answers by the reward model of a run; kept in `folder` under `name`."""
    job = {
        "kind": "score",
        "plan": to_json(plan),
        "reward_model": str(reward_model),
        "prompts": [to_json(prompt) for prompt in prompts],
        "answers": list(answers),
        "threads": plan.threads,
    }
    return [float(value) for value in _result(folder, name, job, on_done)]


def _result(folder: Path, name: str, job: dict[str, Any], on_done: OnDone | None = None) -> Any:
    out = folder / f"{name}.out.json"
    asked = folder / f"{name}.json"
    # As it will be read back: tuples are lists in JSON.
    job = json.loads(json.dumps(job))
    if not (out.exists() and asked.exists() and json.loads(asked.read_text("utf-8")) == job):
        out.unlink(missing_ok=True)
        write_json(asked, job)
        _run(asked, out, job["threads"], on_done)
    return json.loads(out.read_text(encoding="utf-8"))["result"]


def _run(asked: Path, out: Path, threads: int, on_done: OnDone | None) -> None:
    command = [sys.executable, "-P", "-m", "service.demo.engine_job", str(asked), str(out)]
    log = asked.with_suffix(".log")
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=quiet_environment(threads),
        )
        try:
            for line in process.stdout or ():
                if on_done is not None and len(line.split()) == 2:
                    done, total = line.split()
                    on_done(int(done), int(total))
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
            process.wait()
    if process.returncode != 0 or not out.exists():
        raise TrainingRunError(
            f"{asked.stem} ended with code {process.returncode}; {log} says why. "
            "Run the demo again: it goes on from here"
        )


def main(arguments: Sequence[str]) -> int:
    """Do the job."""
    os.nice(NICENESS)
    asked, out = (Path(argument) for argument in arguments)
    job = json.loads(asked.read_text(encoding="utf-8"))
    kinds = {"measure": _measure, "draw": _draw, "score": _score}
    try:
        result = kinds[job["kind"]](job)
    except rlhf_engine.EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write_json(out, {"result": result})
    return 0


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    report = rlhf_engine.measure_speed(Path(job["base"]), job["threads"])
    dtype = report.dtype if job["dtype"] == "auto" else job["dtype"]
    drawn = 16 / report.decode_step_s[dtype][16]
    return asdict(Speed(dtype, float(report.forward_tokens_per_s[dtype]), drawn))


def _draw(job: dict[str, Any]) -> list[dict[str, Any]]:
    plan = from_json(rlhf_engine.RunPlan, job["plan"])
    prompts = [from_json(rlhf_engine.Prompt, row) for row in job["prompts"]]
    answers = rlhf_engine.sample_answers(
        Path(job["base"]),
        Path(job["version"]) if job["version"] else None,
        prompts,
        from_json(rlhf_engine.SamplingSettings, job["settings"]),
        job["seeds"],
        dtype=plan.dtype,
        threads=plan.threads,
        max_prompt_tokens=plan.max_prompt_tokens,
        on_answers=lambda done: _tell(done, len(job["seeds"])),
    )
    return [to_json(answer) for answer in answers]


def _score(job: dict[str, Any]) -> list[float]:
    plan = from_json(rlhf_engine.RunPlan, job["plan"])
    prompts = [from_json(rlhf_engine.Prompt, row) for row in job["prompts"]]
    scores: list[float] = rlhf_engine.score_answers(
        plan,
        Path(job["reward_model"]),
        plan.dtype,
        prompts,
        job["answers"],
        on_done=lambda done: _tell(done, len(prompts)),
    )
    return scores


def _tell(done: int, total: int) -> None:
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
