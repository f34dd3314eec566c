"""A terminal for what the commands write, and what it got."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading

import pytest

from lora_ns.cli.app import main

_STEERING = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(write, columns=80, **surroundings):
    """What a terminal gets while this is called, with both streams on it."""
    above, below = os.openpty()
    fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    got = []

    def read():
        try:
            while block := os.read(above, 65536):
                got.append(block)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(below, "w", encoding="utf-8") as stream:
        for name in ("COLUMNS", "NO_COLOR"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", **surroundings}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        write(stream)
        stream.flush()
    reader.join()
    os.close(above)
    return b"".join(got).decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def command(*words):
    """A command in this process, on that terminal."""

    def write(_):
        with pytest.raises(SystemExit):
            main([str(word) for word in words])

    return write


def shown(*words, **how):
    """The lines of a command on a terminal, without their colours."""
    return plain(on_a_terminal(command(*words), **how)).splitlines()


def plain(text):
    return _STEERING.sub("", text)
