"""A SLURM of one node on this machine, for tests: munged, slurmctld and slurmd in a folder of their own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmdPort={port2}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no SLURM can be started here; empty where one can."""
    lacking = [name for name in (*DAEMONS, "sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if lacking:
        return f"needs {', '.join(lacking)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "needs root to start the daemons of SLURM"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def slurm(folder: Path):
    """Start the daemons, yield the environment for ``sbatch`` and its like, and stop them."""
    munge, host = folder / "munge", socket.gethostname().partition(".")[0]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    munge.chmod(0o700)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
    conf = CONF.format(
        host=host, folder=folder, port=free_port(), port2=free_port(), cpus=os.cpu_count(), memory=memory
    )
    (folder / "slurm.conf").write_text(conf)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "LOGNAME": "tester"}
    starts = [
        ["munged", "--force", *(f"--{n}={munge / n.partition('-')[0]}" for n in ("key-file", "socket", "seed-file")),
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"],
        ["slurmctld", "-i"],
        ["slurmd"],
    ]  # fmt: skip
    try:
        for argv in starts:
            subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=60)
        ready(environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False, capture_output=True, timeout=60)
        for name in reversed(DAEMONS):
            stop(folder / f"{name}.pid")


def ready(environment: dict[str, str]) -> None:
    """Wait until the node takes jobs."""
    for _ in range(120):
        told = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    raise RuntimeError(f"the node of SLURM did not come up: {told.stdout}{told.stderr}")


def stop(pid_file: Path) -> None:
    """End a daemon by the number that it wrote."""
    if not pid_file.is_file():
        return
    pid = int(pid_file.read_text())
    for how in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(50):
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                return
            time.sleep(0.2)
