"""Training runs that are interrupted repeatedly and at random, as a user, a scheduler or the kernel would do it.

A case trains a recipe by commands until it is finished, despite all interruptions. It requires: the same adapter, byte
for byte, as that of an undisturbed run; the old run intact until the new one has completed a step; no process left
five seconds after a command has ended; no hidden file left at the end.

The commands are forked from a process that has already imported the libraries, which would take most of the time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from services_recipes import RECIPE

from lora_ns.files.disk import hash_folder, sha256_file
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir

MARK = "LORANS_TEST_INTERRUPTION"
"""Environment variable that marks all processes of a case."""
STEPS = 10
TEXT = (
    RECIPE.replace("max_steps = 6", f"max_steps = {STEPS}\nsave_steps = 3\nlogging_steps = 1\neval_steps = 100")
    .replace("max_samples = 64\nmax_eval_samples = 8", "max_samples = 20\nmax_eval_samples = 4")
    .replace("global_batch_size = 8", "global_batch_size = 4")
)
OLD_RATE = "training.learning_rate=1e-3"
SIGNALS = ("KILL", "TERM", "INT", "HUP", "USR1")
ALONE = ("finding the base", "loading the libraries", "reading the data", "loading the base", "training")
TOGETHER = ("loading the libraries", "reading the data", "starting 2 processes", "loading the base", "training")
NOT_AGAIN = ("finding the base", "loading the libraries", "reading the data")
"""Stages that `--resume` does not report."""
LAST = ("saving the adapter", "checking the saved adapter")
LONGEST = 240.0
"""Longest duration of a command, in seconds."""


@dataclass(frozen=True)
class Interruption:
    """A signal with its target and its time."""

    signal: signal.Signals
    target: str
    """`the command`, `all` for all its processes, or `another` for one of the others."""
    line: str
    """Start of the progress line after which the signal is sent; empty for the start of the command."""
    delay: float
    """Seconds between that line and the signal."""

    def __str__(self) -> str:
        return f"{self.signal.name} to {self.target}, {self.delay:.2f} s after {self.line or 'the start'!r}"


def drawn(chance: random.Random, processes: int) -> Interruption:
    """Draw a random interruption."""
    stages = ALONE if processes == 1 else TOGETHER
    steps = [f"step {step}/" for step in range(STEPS + 1)]
    moments = [*[chance.choice(stages) for _ in range(2)], *[chance.choice(steps) for _ in range(3)]]
    line = chance.choice([*moments, chance.choice(LAST), ""])
    targets = ["the command"] * 6 + ["all", "all"] + ["another"] * (2 if processes > 1 else 0)
    delay = chance.uniform(0, 1.5 if not line else 0.5)
    return Interruption(signal.Signals[f"SIG{chance.choice(SIGNALS)}"], chance.choice(targets), line, delay)


@dataclass
class Case:
    """One run, with its interruptions and faults."""

    folder: Path
    number: int
    processes: int
    overwrites: bool
    old: Path
    """A finished run of another recipe."""
    commands: Commands
    told: list[str] = field(default_factory=list)
    """The commands and interruptions so far."""
    faults: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        """The run directory."""
        return RunDir(self.folder / "run")

    def begin(self) -> None:
        """Create the folder of the case."""
        for name in ("tmp", "cache"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "recipe.toml").write_text(TEXT)
        if self.overwrites:
            shutil.copytree(self.old, self.run.path)

    def environment(self) -> dict[str, str]:
        """Environment variables of its commands: their own temporary folder and cache."""
        return {"TMPDIR": str(self.folder / "tmp"), "LORANS_CACHE": str(self.folder / "cache")}

    def command(self) -> list[str]:
        """The command that a user would run next."""
        count = ["--num-processes", str(self.processes)] if self.processes > 1 else []
        if self.is_new() and self.run.data.joinpath("train", "state.json").exists():
            return ["train", "run", "--resume"]
        if self.run.path.exists() and any(self.run.path.iterdir()):
            return ["train", "recipe.toml", "--overwrite", *count]
        return ["train", "recipe.toml", *count]

    def is_new(self) -> bool:
        """Test that the run directory holds the new run."""
        if not self.run.manifest_file.exists():
            return False
        return self.run.read().recipe.training.learning_rate == 5e-3 and self.run.put_aside is None

    def interrupt(self, interruption: Interruption) -> None:
        """Start the next command, interrupt it, and check the state afterwards."""
        words = self.command()
        command = self.commands.start(words, self)
        if "--resume" in words and interruption.line in NOT_AGAIN:
            interruption = replace(interruption, line="loading the base")
        self.wait_for(command, interruption.line)
        time.sleep(interruption.delay)
        is_sent, sent_at = not command.has_ended(), time.monotonic()
        for process in self.targets(command, interruption.target):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, interruption.signal)
        code = self.finish(command)
        took = time.monotonic() - sent_at
        self.told.append(f"{' '.join(words)}: {interruption}: exit {code} after {took:.1f} s")
        if not is_sent:
            self.told[-1] += " (too late)"
        self.check_between(code, interruption, command.said())

    def wait_for(self, command: Command, line: str) -> None:
        """Wait until the command has printed a line, or has ended."""
        until = time.monotonic() + LONGEST
        while line and not command.has_ended() and time.monotonic() < until:
            if any(said.startswith(line) for said in command.said()):
                return
            time.sleep(0.02)

    def targets(self, command: Command, target: str) -> list[int]:
        """Process ids of a target."""
        if target == "the command":
            return [command.process]
        others = [process for process in self.commands.alive() if process != command.process]
        if target == "all":
            return [command.process, *others]
        return [random.Random(len(self.told)).choice(others)] if others else [command.process]

    def finish(self, command: Command) -> int:
        """Wait for a command and return its exit code, negative if a signal ended it."""
        until = time.monotonic() + LONGEST
        while not command.has_ended():
            if time.monotonic() > until:
                self.faults.append("hangs")
                for process in self.commands.alive():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        return command.code()

    def check_between(self, code: int, interruption: Interruption, said: list[str]) -> None:
        """Check the state after an interruption."""
        number = int(interruption.signal)
        allowed = {0, 128 + number, -number, *([1] if interruption.target == "another" else [])}
        if code not in allowed or any("Traceback" in line for line in said):
            self.faults.append(f"exit {code}: {''.join(said[-30:])}")
        self.check_nobody_is_left()
        if self.overwrites and not self.is_new():
            self.check_old(interruption)

    def check_nobody_is_left(self) -> None:
        """Check that no process of the case is left five seconds after its command has ended."""
        until = time.monotonic() + 5
        while (left := self.commands.alive()) and time.monotonic() < until:
            time.sleep(0.1)
        if left:
            self.faults.append(f"left behind: {[Path(f'/proc/{one}/cmdline').read_bytes()[:200] for one in left]}")

    def check_old(self, interruption: Interruption) -> None:
        """Check that the old run is intact, in its place or put aside by a killed process."""
        place = self.run.put_aside or self.run
        wanted = hash_folder(self.old)
        found = hash_folder(place.path)
        if interruption.signal == signal.SIGKILL:
            partial = self.run.path / ".replacing"
            found = {name.removeprefix(f"{partial.name}/"): value for name, value in found.items()}
        if found != wanted:
            lost = [name for name in wanted if found.get(name) != wanted[name]]
            self.faults.append(f"the old run has changed: lost {lost}, foreign {sorted(found.keys() - wanted.keys())}")

    def end(self, expected: str) -> None:
        """Finish the run, and check the final state."""
        for _ in range(3):
            if self.is_new() and self.run.read().status == "finished":
                break
            words = self.command()
            command = self.commands.start(words, self)
            code = self.finish(command)
            self.told.append(f"{' '.join(words)}: exit {code}")
            if code:
                self.faults.append(f"exit {code}: {''.join(command.said()[-12:])}")
        self.check_nobody_is_left()
        if not (self.run.adapter / WEIGHTS).exists() or sha256_file(self.run.adapter / WEIGHTS) != expected:
            self.faults.append("another adapter than that of the undisturbed run")
        left = [*self.run.path.rglob(".*"), *self.folder.glob(".*"), *(self.folder / "cache").glob(".*")]
        left += (self.folder / "tmp").iterdir()
        left += [file for file in self.folder.iterdir() if file.name not in {"tmp", "cache", "run", "recipe.toml"}]
        if left:
            self.faults.append(f"left behind: {[str(file.relative_to(self.folder)) for file in left]}")


@dataclass
class Command:
    """A started command."""

    process: int
    folder: Path
    """Folder of its output, and of its exit code once it has ended."""

    def said(self) -> list[str]:
        """Lines of its standard error so far."""
        return (self.folder / f"{self.process}.said").read_text(errors="replace").splitlines(keepends=True)

    def has_ended(self) -> bool:
        """Test for an exit code."""
        return (self.folder / f"{self.process}.code").exists()

    def code(self) -> int:
        """Its exit code, negative if a signal ended it."""
        return int((self.folder / f"{self.process}.code").read_text())


class Commands:
    """Commands that are forked from one process, with a mark in their environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        words = [sys.executable, __file__, "--fork"]
        shared = {MARK: str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            words, env={**os.environ, **shared}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, words: list[str], case: Case) -> Command:
        """Start `lorans` with these arguments."""
        assert self._parent.stdin, "standard input is a pipe"
        assert self._parent.stdout, "standard output is a pipe"
        asked = {"words": words, "cwd": str(case.folder), "env": case.environment(), "said": str(self._folder)}
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        return Command(int(self._parent.stdout.readline()), self._folder)

    def alive(self) -> list[int]:
        """Process ids of running processes with the mark."""
        wanted, found = f"{MARK}={self._folder}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0") and int(place.name) != self._parent.pid:
                    found.append(int(place.name))
        return found

    def end(self) -> None:
        """End the process that commands are forked from."""
        self._parent.communicate()


def fork_commands() -> None:
    """Fork a command for each line of standard input."""
    from lora_ns.cli.app import main

    for name in (
        "accelerate",
        "datasets",
        "peft",
        "torch",
        "transformers",
        "trl",
        "lora_ns.services.train_under_launcher",
    ):
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        begun, release = os.pipe()
        process = os.fork()
        if not process:
            os.read(begun, 1)
            become(asked)
            return main(asked["words"])
        (Path(asked["said"]) / f"{process}.said").touch()
        os.write(release, b".")
        os.close(begun)
        os.close(release)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told = Path(asked["said"]) / f"{process}.new"
        told.write_text(str(code))
        told.rename(told.with_suffix(".code"))
    return None


def become(asked: dict[str, Any]) -> None:
    """Make a forked process like a newly started one, with its own session, folder, environment and streams."""
    os.setsid()
    for name in SIGNALS[1:]:
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"])
    os.environ.update(asked["env"])
    tempfile.tempdir = None
    sys.argv = ["lorans", *asked["words"]]
    said = os.open(Path(asked["said"]) / f"{os.getpid()}.said", os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, place in ((nothing, 0), (nothing, 1), (said, 2)):
        os.dup2(descriptor, place)


def trained(folder: Path, processes: int, commands: Commands, *overrides: str) -> RunDir:
    """Train the recipe without interruptions."""
    case = Case(folder, 0, processes, False, folder, commands)
    case.begin()
    words = [*case.command(), *(word for override in overrides for word in ("--set", override))]
    command = commands.start(words, case)
    assert case.finish(command) == 0, "".join(command.said()[-20:])
    return case.run


def interrupted_at_random(folder: Path, count: int, seed: int, log: Path) -> list[str]:
    """Interrupt runs `count` times, and return the faults, each with its case."""
    commands = Commands(folder / "commands")
    old = trained(folder / "old", 1, commands, OLD_RATE, "training.max_steps=4")
    expected = {
        world: sha256_file(trained(folder / f"of-{world}", world, commands).adapter / WEIGHTS) for world in (1, 2)
    }
    done, number, faults = 0, 0, []
    while done < count:
        number += 1
        chance = random.Random(f"{seed} {number}")
        processes = 2 if number % 7 == 3 else 1
        case = Case(folder / f"case-{number}", number, processes, chance.random() < 0.5, old.path, commands)
        case.begin()
        for _ in range(min(count - done, chance.randint(1, 6))):
            case.interrupt(drawn(chance, processes))
            done += 1
            if case.is_new() and case.run.read().status == "finished":
                break
        case.end(expected[processes])
        with log.open("a") as file:
            what = f"case {number}: {processes} processes{', --overwrite' * case.overwrites}, {done} of {count}"
            file.write("\n  ".join([what, *case.told, *(f"FAULT {fault}" for fault in case.faults)]) + "\n")
        faults += [f"case {number} of seed {seed}: {fault}" for fault in case.faults]
        if not case.faults:
            shutil.rmtree(case.folder)
    commands.end()
    return faults


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        fork_commands()
    else:
        place = Path(sys.argv[1]).absolute()
        faults = interrupted_at_random(place, int(sys.argv[2]), int(sys.argv[3]), place / "log.txt")
        sys.stdout.write("\n".join(faults or ["held"]) + "\n")
