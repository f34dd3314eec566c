"""Hostile programs end with their own verdict, and leave nothing: no process, file, socket or changed limit."""

import os
import resource
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lora_ns.sandbox.outcome import Limits, Program, Verdict
from lora_ns.sandbox.run import run_all, run_code
from lora_ns.sandbox.walls import summary, walls

LIMITS = Limits(seconds=120, cpu_seconds=1, memory=2**27, disk=2**22, output=2**16, processes=8)
TESTS = ("assert f(1) == 2",)
WRONG = "def f(x): return x\n"

HOSTILE = {
    "forks without end": ("import os\nwhile True: os.fork()", Verdict.RAISED, "BlockingIOError"),
    "forks quietly without end": (
        "import os, time\nwhile True:\n try: os.fork()\n except OSError: time.sleep(0.01)",
        Verdict.TIMEOUT,
        "wall-clock time",
    ),
    "starts threads without end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        Verdict.RAISED,
        "RuntimeError",
    ),
    "connects to this machine": (
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2)",
        Verdict.RAISED,
        "OSError: [Errno 101]",
    ),
    "connects to a socket without a path": (
        "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0lorans-PID')",
        Verdict.RAISED,
        "ConnectionRefusedError",
    ),
    "fills the disk": (
        "for n in range(99):\n with open(f'/tmp/{n}', 'wb') as file: file.write(bytes(2**20))",
        Verdict.RAISED,
        "OSError: [Errno 28]",
    ),
    "writes one large file": (
        "with open('a', 'wb', 0) as file:\n while True: file.write(bytes(2**20))",
        Verdict.RAISED,
        "OSError",
    ),
    "makes files without end": (
        "n = 0\nwhile True:\n open(str(n), 'w').close()\n n += 1",
        Verdict.RAISED,
        "OSError: [Errno 28]",
    ),
    "fills memory": ("held = []\nwhile True: held.append(bytearray(2**20))", Verdict.MEMORY, "MemoryError"),
    "fills memory in several processes": (
        "import os, time\nfor _ in range(2): os.fork()\nheld = bytearray(b'x') * (3 * 2**24)\ntime.sleep(99)",
        Verdict.MEMORY,
        "all processes together",
    ),
    "ignores every signal it can": (
        "import signal\nfor n in range(1, 65):\n"
        " try: signal.signal(n, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
        "while True: pass",
        Verdict.TIMEOUT,
        "processor time",
    ),
    "waits without end": ("import time\nwhile True: time.sleep(9)", Verdict.TIMEOUT, "wall-clock time"),
    "closes everything": ("import os\nos.closerange(0, 256)", Verdict.ENDED_EARLY, "exit code 0"),
    "closes standard output": (f"{WRONG}import sys\nsys.stdout.close()", Verdict.FAILED, "assert f(1) == 2"),
    "prints the mark of success": (
        "print('ok\\nok\\npassed every test\\nexit 0', flush=True)\nimport sys\nsys.exit(0)",
        Verdict.ENDED_EARLY,
        "SystemExit",
    ),
    "ends with the code of success": ("import os\nos._exit(0)", Verdict.ENDED_EARLY, "exit code 0"),
    "ends in a test": ("import os\ndef f(x): os._exit(0)", Verdict.ENDED_EARLY, "exit code 0"),
    "reports success in every open file": (
        "import os\nfor n in range(3, 99):\n try: os.write(n, b'ok\\nok\\n')\n except OSError: pass\nos._exit(0)",
        Verdict.FORGED,
        "",
    ),
    "replaces what tests compare with": (
        f"{WRONG}import builtins\nbuiltins.AssertionError = ValueError\n"
        "builtins.compile = lambda *a: (lambda: 1).__code__",
        Verdict.FAILED,
        "assert f(1) == 2",
    ),
    "returns what equals everything": (
        "class A:\n def __eq__(self, other): return 1\ndef f(x): return A()",
        Verdict.FAILED,
        "equals everything",
    ),
    "raises what has no text": (
        "class E(BaseException):\n def __str__(self): raise self\nraise E",
        Verdict.RAISED,
        "E",
    ),
    "leaves a daemon": (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n"
        "  os.closerange(0, 256)\n  time.sleep(999)\n os._exit(0)\nos.wait()\ndef f(x): return 2",
        Verdict.PASSED,
        "",
    ),
    "leaves another program": (
        "import subprocess\nsubprocess.Popen(['sleep', '9PID9'], start_new_session=True)\ndef f(x): return 2",
        Verdict.PASSED,
        "",
    ),
    "writes outside of its folder": ("open('OUTSIDE/new', 'w').write('x')", Verdict.RAISED, "FileNotFoundError"),
    "reads a file of the user": ("print(open('OUTSIDE/secret').read())", Verdict.RAISED, "FileNotFoundError"),
    "removes all files": (
        "import os\nfor folder, _, files in os.walk('/usr/bin'):\n for name in files: os.remove(f'{folder}/{name}')",
        Verdict.RAISED,
        "OSError: [Errno 30]",
    ),
    "kills its parent": (
        f"{WRONG}import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(os.getppid(), signal.SIGSTOP)",
        Verdict.FAILED,
        "assert f(1) == 2",
    ),
    "kills everything": (
        "import os\nif os.fork(): os.wait()\nos.kill(-1, 9)\nos.kill(0, 9)",
        Verdict.CRASHED,
        "SIGKILL",
    ),
    "kills this process": ("import os\nos.kill(PID, 9)", Verdict.RAISED, "ProcessLookupError"),
    "reads secrets from the environment": (
        "import os\nfor n in os.listdir('/proc'):\n"
        " if n.isdigit():\n  try: print(open(f'/proc/{n}/environ').read())\n  except OSError: pass\n"
        "print(os.environ)\nos.environ['HF_TOKEN']",
        Verdict.RAISED,
        "KeyError: 'HF_TOKEN'",
    ),
    "raises its limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        Verdict.RAISED,
        "ValueError: not allowed to raise maximum limit",
    ),
    "changes the limits of its parent": (
        "import os, resource, time\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))\ntime.sleep(9)",
        Verdict.FORGED,
        "the first process",
    ),
    "prints without end": ("while True: print('x' * 999)", Verdict.OUTPUT, "standard output"),
    "recurses without end": ("def f(x): return f(x)", Verdict.FAILED, "RecursionError"),
    "overflows the stack": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n def __getattr__(self, n): return getattr(self, n + 'x')\n"
        "repr(A().a)",
        None,
        "",
    ),
    "writes to memory that is not its own": ("import ctypes\nctypes.string_at(1)", Verdict.CRASHED, "SIGSEGV"),
    "becomes root": ("import os\nos.setuid(0)", Verdict.RAISED, "Error: [Errno"),
    "mounts": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None): raise OSError(ctypes.get_errno(), 'mount')",
        Verdict.RAISED,
        "[Errno 1]",
    ),
    "reads the memory of the first process": ("open('/proc/1/mem', 'rb')", Verdict.RAISED, "PermissionError"),
}


@pytest.fixture(autouse=True)
def _walls():
    if any(not wall.holds for wall in walls()):
        pytest.skip(f"this machine does not grant every wall: {summary(walls())}")


def of_this_process() -> list[str]:
    """Processes of sandboxes that this process started, and what their programs started."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
        except OSError:
            continue
        is_sandbox = str(os.getpid()).encode() in words and any(b"lora_ns.sandbox" in word for word in words)
        if is_sandbox or f"9{os.getpid()}9".encode() in words:
            found.append(folder.name)
    return found


def open_files():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def limits_of_this_process():
    return {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_has_its_verdict_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    (tmp_path / "secret").write_text("hidden")
    code, verdict, why = HOSTILE[name]
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as nameless:
        listening.bind(("127.0.0.1", 0))
        nameless.bind(f"\0lorans-{os.getpid()}")
        for one in (listening, nameless):
            one.listen()
            one.setblocking(False)
        for word, value in (("PORT", listening.getsockname()[1]), ("OUTSIDE", tmp_path), ("PID", os.getpid())):
            code = code.replace(word, str(value))
        limits_before, files_before = limits_of_this_process(), open_files()
        limits = replace(LIMITS, seconds=1.0) if why == "wall-clock time" else LIMITS
        outcome = run_code(Program(code, TESTS), limits)
        for one in (listening, nameless):
            with pytest.raises(BlockingIOError):
                one.accept()
        assert limits_of_this_process() == limits_before
        assert open_files() - files_before == set()  # an object of an earlier test may close its own meanwhile
    assert verdict in {outcome.verdict, None}, outcome
    assert why in outcome.why
    assert outcome.passed == ((outcome.verdict is Verdict.PASSED),)
    assert "hidden" not in outcome.output
    assert of_this_process() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def test_programs_are_not_waited_for_after_an_interruption():
    programs = [Program("1"), *[Program(f"import time\ntime.sleep(99 + {number})") for number in range(5)]]
    outcomes = run_all(programs, replace(LIMITS, seconds=90), at_once=2)
    assert next(outcomes).verdict is Verdict.PASSED
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt)
    assert of_this_process() == []
