"""Follows deploy/Containerfile step by step in a fresh folder, without a container engine.

    python deploy/follow_containerfile.py

Each path of the image lies below the folder, `python` is a fresh environment made by an
interpreter of this machine, and everything after USER runs under that number where this is
started by root. It shows that the steps install and start Heed; it does not show that an
engine builds the image, nor that Debian's slim image lacks nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"

HANDED_ON = re.compile(r"(?i)PIP_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(https?|no)_proxy")
"""Variables of the caller that reach RUN: they say where pip finds packages."""

NOT_LENT = re.compile(r"heed-|__editable__|pip\b|.*\.pth$")
"""What is never borrowed: Heed itself, which the steps have to install, and pip."""

HEALTHY_WITHIN_S = 180.0
STOPPED_WITHIN_S = 90.0


@dataclass(frozen=True)
class Step:
    """One instruction, continuation lines joined."""

    instruction: str
    argument: str


def parse(text: str) -> list[Step]:
    """The steps of a container file, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    steps = (line.strip().split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [Step(words[0].upper(), words[1] if len(words) > 1 else "") for words in steps]


def image_paths(steps: Sequence[Step]) -> list[str]:
    """The folders that the steps make or fill, and that therefore lie below our folder."""
    found = set()
    for step in steps:
        if step.instruction in ("WORKDIR", "VOLUME"):
            found.add(step.argument)
        if step.instruction == "COPY" and step.argument.startswith("--from="):
            found.add(step.argument.split()[-1])
    return sorted(found, key=len, reverse=True)


@dataclass
class Follower:
    """Where the steps stand: the folder, and what ENV, WORKDIR, USER and the rest have said."""

    prefix: Path
    paths: list[str]
    borrow: Path | None
    python: str
    variables: dict[str, str] = field(default_factory=dict)
    workdir: Path = Path()
    user: int | None = None
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    stop_signal: signal.Signals = signal.SIGTERM

    def begin(self) -> None:
        """Make the environment that stands for the image's own Python."""
        call([self.python, "-m", "venv", str(self.prefix / "image")])
        self._lend(self.prefix / "image")

    def follow(self, step: Step) -> None:
        """Do one step; SystemExit where it fails or is of a kind nobody wrote down here."""
        say(f"{step.instruction} {step.argument}")
        argument = self.below(step.argument)
        if step.instruction == "FROM":
            self.variables, self.workdir, self.user = {}, self.prefix, None
        elif step.instruction == "WORKDIR":
            self.workdir = Path(argument)
            self.workdir.mkdir(parents=True, exist_ok=True)
        elif step.instruction == "COPY":
            self._copy(argument.split())
        elif step.instruction == "RUN":
            self._run(argument)
        elif step.instruction == "ENV":
            self.variables |= dict(pair.split("=", 1) for pair in shlex.split(argument))
        else:
            self._note(step.instruction, argument)

    def below(self, text: str) -> str:
        """The text with the image's paths moved below our folder."""
        for path in self.paths:
            text = re.sub(rf"(?<![\w./]){re.escape(path)}(?![\w-])", str(self.prefix) + path, text)
        return text

    def environment(self) -> dict[str, str]:
        """What a process of the container would see, and nothing of ours."""
        path = f"{self.prefix}/image/bin:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.prefix), "LANG": "C.UTF-8", **self.variables}

    def start(self, command: Sequence[str], cwd: Path, **streams: Any) -> subprocess.Popen[bytes]:
        """Start a command as the container would: its variables, and under USER's number."""
        environment = self.environment()
        # Looked up here: the system would go on to the next folder of PATH where USER may
        # not run the first match, and find another Python.
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        known = {**streams, **identity(self.user)}
        return subprocess.Popen([program, *command[1:]], cwd=cwd, env=environment, **known)

    def _note(self, instruction: str, argument: str) -> None:
        if instruction == "USER":
            self.user = int(argument.split(":")[0])
        elif instruction == "CMD":
            self.command = json.loads(argument)
        elif instruction == "HEALTHCHECK":
            self.health = json.loads(argument.split(" CMD ", 1)[1])
        elif instruction == "STOPSIGNAL":
            self.stop_signal = signal.Signals[argument]
        elif instruction not in ("ARG", "EXPOSE", "VOLUME"):
            sys.exit(f"{instruction} is not known here; teach deploy/follow_containerfile.py")

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            # Both stages share the folder: an environment cannot be moved.
            say(f"  stays where it is: {words[-1]}")
            return
        *sources, target = words
        for source in sources:
            place = self.workdir / target / ("" if (ROOT / source).is_dir() else source)
            if (ROOT / source).is_dir():
                cache = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, dirs_exist_ok=True, ignore=cache)
            else:
                shutil.copy(ROOT / source, place)

    def _run(self, command: str) -> None:
        if command.startswith("groupadd "):
            say("  left out: it would change this machine's accounts")
            return
        if os.geteuid() != 0:
            command = re.sub(r"install -d -o \S+ -g \S+", "install -d", command)
        if self.borrow is not None:
            command = re.sub(r"\bpip (wheel|install) ", r"pip \1 --no-build-isolation ", command)
        handed_on = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
        call(["sh", "-ec", command], cwd=self.workdir, env=handed_on | self.environment())
        if " -m venv " in command:
            self._lend(Path(command.split()[-1]))

    def _lend(self, environment: Path) -> None:
        """Let an environment see the packages that are installed elsewhere, if asked to."""
        if self.borrow is None:
            return
        lent = self.prefix / "borrowed"
        if not lent.exists():
            lent.mkdir()
            for package in self.borrow.resolve().iterdir():
                if not NOT_LENT.match(package.name):
                    (lent / package.name).symlink_to(package)
        (site,) = environment.glob("lib/python3*/site-packages")
        # First on the path: a fresh environment may bring older build tools of its own.
        line = f"import sys; sys.path.insert(0, {str(lent)!r})\n"
        (site / "borrowed.pth").write_text(line, "utf-8")


def check_imports(follower: Follower) -> None:
    """Heed is imported from where it was installed, even where a lookalike lies at hand."""
    trap = follower.prefix / "trap"
    trap.mkdir()
    (trap / "service.py").write_text("raise SystemExit('the lookalike was imported')\n", "utf-8")
    script = "import service; print(service.__file__)"
    process = follower.start(["python", "-c", script], trap, stdout=subprocess.PIPE)
    found = process.communicate()[0].decode().strip()
    if process.returncode or not found.startswith(follower.below("/opt/heed/")):
        sys.exit(f"service was imported from {found or 'nowhere'}")
    say(f"ok: the service is imported from {found}")


def check_server(follower: Follower, until_ready: bool) -> None:
    """The server starts, is found healthy by HEALTHCHECK, and stops on STOPSIGNAL."""
    log = follower.prefix / "server.log"
    with log.open("wb") as output:
        server = follower.start(
            follower.command, follower.workdir, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_healthy(follower, server, log, follower.health)
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        say(f"ok: healthy, and run by user {owner}")
        if owner == 0 or (os.geteuid() == 0 and owner != follower.user):
            sys.exit(f"the server runs as user {owner}")
        if until_ready:
            ready = [word.replace("/health/live", "/health/ready") for word in follower.health]
            _wait_healthy(follower, server, log, ready)
            say("ok: ready to answer questions")
        server.send_signal(follower.stop_signal)
        code = server.wait(STOPPED_WITHIN_S)
        if code not in (0, -follower.stop_signal):
            sys.exit(f"the server ended with {code}:\n{_tail(log)}")
        say(f"ok: stopped on {follower.stop_signal.name}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _wait_healthy(
    follower: Follower, server: subprocess.Popen[bytes], log: Path, command: list[str]
) -> None:
    ends = time.monotonic() + HEALTHY_WITHIN_S
    while follower.start(command, follower.workdir, stderr=subprocess.DEVNULL).wait():
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}:\n{_tail(log)}")
        if time.monotonic() > ends:
            sys.exit(f"not healthy within {HEALTHY_WITHIN_S:.0f} s:\n{_tail(log)}")
        time.sleep(0.5)


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-4000:]


def find_python(user: int) -> str:
    """An interpreter that USER may run too: one in a home folder it may not."""
    wanted = sys.version_info[:2]
    check = f"import sys, ensurepip; sys.exit(sys.version_info[:2] != {wanted})"
    for candidate in _interpreters(wanted):
        try:
            subprocess.run([candidate, "-c", check], check=True, cwd="/", **identity(user))
        except (PermissionError, subprocess.CalledProcessError):
            continue
        return candidate
    sys.exit(f"user {user} may run no Python {wanted[0]}.{wanted[1]} of this machine")


def _interpreters(wanted: tuple[int, int]) -> Iterator[str]:
    yield os.path.realpath(sys.executable)
    for folder in ("/usr/local/bin", "/usr/bin"):
        for name in (f"python{wanted[0]}.{wanted[1]}", "python3"):
            if (Path(folder) / name).exists():
                yield f"{folder}/{name}"


def identity(user: int | None) -> dict[str, Any]:
    """What makes a process run under that number, where we may change to it."""
    if user is None or os.geteuid() != 0:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def call(
    command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None
) -> None:
    """Run a command; SystemExit where it fails."""
    code = subprocess.run(command, cwd=cwd, env=env, check=False).returncode
    if code:
        sys.exit(f"exit code {code}: {shlex.join(command)}")


def say(text: str) -> None:
    """One line to whoever watches, in order with what the steps write."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                        help="a variable for the server, as with an engine's --env")  # fmt: skip
    parser.add_argument("--borrow", type=Path, metavar="SITE_PACKAGES",
                        help="use the packages installed there instead of installing "
                             "them again: quick, but not the whole proof")  # fmt: skip
    parser.add_argument("--until-ready", action="store_true",
                        help="wait until the base policy is loaded, too")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    return parser.parse_args()


def main() -> None:
    """Follow every step in a temporary folder, start the server, and check it."""
    asked = arguments()
    steps = parse(CONTAINERFILE.read_text("utf-8"))
    user = next(int(s.argument.split(":")[0]) for s in steps if s.instruction == "USER")
    prefix = Path(tempfile.mkdtemp(prefix="heed-image-"))
    # Another user must get in.
    prefix.chmod(0o755)
    try:
        follower = Follower(prefix, image_paths(steps), asked.borrow, find_python(user))
        follower.begin()
        for step in steps:
            follower.follow(step)
        follower.variables["HEED_PORT"] = str(free_port())
        follower.variables |= dict(pair.split("=", 1) for pair in asked.env)
        check_imports(follower)
        check_server(follower, asked.until_ready)
    finally:
        if asked.keep:
            say(f"kept: {prefix}")
        else:
            shutil.rmtree(prefix, ignore_errors=True)
    say("every step was followed")


if __name__ == "__main__":
    main()
