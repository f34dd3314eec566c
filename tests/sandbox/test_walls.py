"""Walls that are missing are named, and without a necessary one nothing runs."""

import shlex
import shutil
import subprocess
import sys

import pytest

from lora_ns.errors import MissingError
from lora_ns.sandbox import run, walls
from lora_ns.sandbox.namespaces import WallError
from lora_ns.sandbox.outcome import Limits, Outcome, Program, Verdict
from lora_ns.sandbox.run import Heard, judge, run_all, run_code


@pytest.fixture
def tried(monkeypatch):
    """A machine whose kernel refuses a wall or lets a program through; `tried` sets it, nothing is started."""

    def answer(found):
        def attack():
            if isinstance(found, Exception):
                raise found
            return Outcome(Verdict.PASSED, (), output=found)

        monkeypatch.setattr(walls, "_attack", attack)
        walls.walls.cache_clear()

    monkeypatch.setattr(run, "run_unchecked", lambda *_: pytest.fail("a program was started"))
    yield answer
    walls.walls.cache_clear()


def report(**problems):
    """What the program prints that tries every wall."""
    return "".join(f"{name}\t{problems.get(name.replace(' ', '_'), '')}\n" for name in walls.EFFECTS)


MISSING = {
    "the kernel refuses a network of its own": (
        WallError("network", "unshare: Operation not permitted"),
        "no wall for `network` (unshare: Operation not permitted)",
    ),
    "a program reaches this machine": (
        report(network="a connection to this machine"),
        "no wall for `network` (a connection to this machine)",
    ),
    "a program sees files": (report(files="/etc/passwd can be seen"), "no wall for `files` (/etc/passwd can be seen)"),
    "the program was ended": ("network\t\n", "`files`"),
}


@pytest.mark.parametrize(("found", "message"), MISSING.values(), ids=MISSING)
def test_without_a_wall_nothing_runs_and_it_is_named(tried, found, message):
    tried(found)
    for start in (lambda: run_code("1"), lambda: list(run_all([Program("1")]))):
        with pytest.raises(MissingError) as caught:
            start()
        assert message in str(caught.value)
        assert "kernel.apparmor_restrict_unprivileged_userns" in str(caught.value)


FORBID = "echo 0 > /proc/sys/user/max_net_namespaces"
"""Within a user namespace, allows no network namespace in it: the kernel then refuses the wall for real."""

START = """
from lora_ns.errors import MissingError
from lora_ns.sandbox.run import run_code
try:
    print(run_code("1"))
except MissingError as error:
    print(error)
"""


def test_a_kernel_that_refuses_a_network_runs_nothing():
    if shutil.which("unshare") is None:
        pytest.skip("no `unshare`")
    command = f"{FORBID} || exit 77; exec {shlex.join([sys.executable, '-c', START])}"
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode and not done.stdout:
        pytest.skip(f"no user namespace in which the kernel can be made to refuse: {done.stderr}")
    assert "no wall for `network` (unshare: " in done.stdout


def test_another_system_has_no_walls(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    walls.walls.cache_clear()
    try:
        assert not any(wall.holds for wall in walls.walls())
        assert "only built on Linux" in walls.summary(walls.walls())
    finally:
        walls.walls.cache_clear()


def test_a_machine_that_cannot_measure_all_memory_runs_programs(tried):
    tried(report(total_memory="no `/proc`"))
    walls.require()
    assert "no wall for `total memory`" in walls.summary(walls.walls())


def test_a_wall_that_falls_later_is_named(monkeypatch):
    monkeypatch.setattr(run, "require", lambda: None)

    def refuse(*_):
        judge(Heard(status=bytearray(b"wall network unshare: No space left on device")), Program("1"), b"", 0.0)

    monkeypatch.setattr(run, "run_unchecked", refuse)
    with pytest.raises(MissingError, match="no wall for `network`"):
        run_code("1", Limits())
