"""The memory of a process is its own."""

import subprocess
import sys

from lora_ns.machine import own_memory
from lora_ns.machine.own_memory import peak_resident_bytes

PEAK = "from lora_ns.machine.own_memory import peak_resident_bytes; print(peak_resident_bytes())"


def test_a_process_does_not_count_the_one_that_started_it():
    large = bytearray(150_000_000)
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert len(large) < peak_resident_bytes()
    assert 5_000_000 < int(done.stdout) < 100_000_000


def test_without_the_files_of_linux_the_system_is_asked(monkeypatch, tmp_path):
    own = peak_resident_bytes()
    monkeypatch.setattr(own_memory, "_STATUS", tmp_path / "none")
    assert peak_resident_bytes() >= 0.9 * own > 5_000_000
