"""A SLURM cluster on this machine, from Debian's `slurm-wlm` and `munge`. It needs root."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=26817
SlurmdPort=26818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime={grace} State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


def can_be_made() -> bool:
    """Test that SLURM's programs are installed and can be started."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


@contextlib.contextmanager
def cluster(folder: Path, grace: int = 0) -> Iterator[None]:
    """Start the cluster, and point `SLURM_CONF` to it.

    Args:
        folder: a new folder for its files.
        grace: seconds for a job to end by itself before a higher partition takes its node.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, folder=folder, cores=os.cpu_count(), grace=grace)
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = ("socket", "pid-file", "log-file", "seed-file")
    places = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in names]
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", *places],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", host],
        ):
            with (folder / f"{command[0]}.out").open("wb") as out:
                said = {"stdout": out, "stderr": subprocess.STDOUT}
                daemons.append(subprocess.Popen(command, **said, stdin=subprocess.DEVNULL))
        _wait_until_idle(folder)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _wait_until_idle(folder: Path) -> None:
    """Wait until the node is idle; `scontrol` itself needs a moment to respond."""
    for _ in range(300):
        told = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False)
        if "idle" in told.stdout:
            return
        subprocess.run(["scontrol", "ping"], capture_output=True, check=False)
    raise AssertionError((folder / "slurmctld.log").read_text() + (folder / "slurmd.log").read_text())
