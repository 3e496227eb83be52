"""The example for Slurm under a real slurmctld and slurmd of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from waiting import until

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "configs" / "train.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd")

TRAINING = """\
import os, signal, subprocess, sys, time
log = open(os.path.join(os.environ["HOME"], "heard"), "a", buffering=1)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGUSR1, lambda *_: log.write("usr1\\n"))
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log.write("saved\\n")
    sys.exit(5)
signal.signal(signal.SIGTERM, save)
log.write(f"start {os.getpid()} {child.pid} {os.environ.get('SLURM_RESTART_COUNT', 0)}\\n")
if os.environ["KIND"] == "gives-up": sys.exit(124)
while True: time.sleep(0.1)
"""

# A requeued job waits until the credentials of its last start have expired, two minutes as Slurm comes; started sooner, it fails.
CONFIG = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/ctld.pid
SlurmdPidFile={place}/d.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=trial Nodes=ALL Default=YES State=UP
"""


class Cluster:
    """One controller, one node."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("munge", "state", "spool", "tools"):
            (place / name).mkdir(mode=0o700)
        (place / "munge/key").write_bytes(os.urandom(128))
        (place / "munge/key").chmod(0o600)
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.close()
        host = socket.gethostname().partition(".")[0]
        (place / "slurm.conf").write_text(CONFIG.format(host=host, ports=ports, place=place))
        for name, program in (
            ("python", TRAINING),
            ("unsloth-watch", "import sys\nfrom unsloth_watch.cli.main import main\nsys.exit(main())\n"),
        ):
            (place / "tools" / name).write_text(f"#!{sys.executable}\n{program}")
            (place / "tools" / name).chmod(0o755)
        self.environment = {
            **os.environ, "SLURM_CONF": str(place / "slurm.conf"), "HOME": str(place), "PATH": f"{place}/tools:{os.environ['PATH']}",
        }  # fmt: skip
        munge = place / "munge"
        self._daemons = [
            self._start("munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        ]  # fmt: skip
        until((munge / "socket").exists)
        self._daemons += [self._start(name, "-D", "-f", str(place / "slurm.conf")) for name in DAEMONS[1:]]
        until(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T").stdout, seconds=60, every=0.3)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, cwd=self.place, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm's."""
        return subprocess.run(
            words, cwd=self.place, env={**self.environment, **variables}, capture_output=True, text=True, check=False, timeout=30
        )

    def submit(self, **variables: str) -> str:
        """Submit the example; return the job's number."""
        done = self.run("sbatch", "--parsable", "--gres=none", "--time=10", str(SCRIPT), **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def heard(self) -> list[str]:
        """Return what the training has written so far."""
        path = self.place / "heard"
        return path.read_text().splitlines() if path.exists() else []

    def state(self, job: str) -> str:
        """Return what Slurm says of a job."""
        return self.run("scontrol", "show", "job", job).stdout

    def close(self) -> None:
        """End the daemons, the last first."""
        self.run("scancel", "--user", "root")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}; apt-get install slurmctld slurmd slurm-client munge")
    if os.getuid() != 0:
        pytest.skip("slurmd starts jobs as their users; run the tests as root")
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def test_usr1_is_passed_on_and_scancel_lets_it_save_and_leaves_nobody(cluster: Cluster) -> None:
    job = cluster.submit(KIND="trains")
    start = until(cluster.heard, seconds=30)[0]
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: "usr1" in cluster.heard())
    cluster.run("scancel", job)
    until(lambda: "saved" in cluster.heard())
    until(lambda: "JobState=CANCELLED" in (state := cluster.state(job)) and "ExitCode=5:0" in state, seconds=60, every=0.3)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in start.split()[1:3]))


@pytest.mark.timeout(240)
def test_a_job_that_gave_up_comes_back_with_the_same_number_in_a_directory_of_its_own(cluster: Cluster) -> None:
    job = cluster.submit(KIND="gives-up", REQUEUE="yes")
    until(lambda: "Restarts=1" in cluster.state(job), seconds=60, every=0.3)
    starts = until(lambda: found if len(found := cluster.heard()) >= 2 else None, seconds=90, every=0.1)
    assert [line.split()[-1] for line in starts][:2] == ["0", "1"]
    assert len(list((cluster.place / "runs/train").iterdir())) >= 2
