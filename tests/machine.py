"""A real systemd as PID 1 of private namespaces over a throw-away overlay of this machine's root; driven from outside.

Nothing of the host is changed: files go to the overlay, control groups below one of our own, and the kernel's settings in
/proc/sys are read-only inside (systemd would set the host's).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import unsloth_watch
from waiting import until

SYSTEMD = "/lib/systemd/systemd"
# Units that want what a namespace does not have, or would change the host.
_MASKED = [
    "systemd-sysctl",
    "systemd-modules-load",
    "systemd-update-utmp",
    "systemd-remount-fs",
    "systemd-binfmt",
    "systemd-udevd",
    "systemd-udev-trigger",
    "systemd-timesyncd",
    "systemd-networkd",
    "systemd-logind",
    "getty@",
    "console-getty",
    "systemd-hwdb-update",
    "kmod-static-nodes",
    "systemd-firstboot",
    "systemd-random-seed",
    "systemd-machine-id-commit",
]

_BOOT = r"""
set -eu
R=$PLACE/root
mkdir -p "$R" "$PLACE/layer"
mount -t tmpfs -o size=256m none "$PLACE/layer"
mkdir "$PLACE/layer/upper" "$PLACE/layer/work"
mount -t overlay none -o "lowerdir=/,upperdir=$PLACE/layer/upper,workdir=$PLACE/layer/work" "$R"
for extra in $EXTRA; do mkdir -p "$R$extra"; mount --rbind "$extra" "$R$extra"; done
mount -t proc none "$R/proc"
for name in sys sysrq-trigger; do
  [ -e "$R/proc/$name" ] || continue
  mount --bind "$R/proc/$name" "$R/proc/$name"; mount -o remount,bind,ro "$R/proc/$name"
done
mount -t sysfs -o ro none "$R/sys"
mount -t tmpfs -o mode=755 none "$R/run"
mount -t tmpfs -o mode=755 none "$R/dev"
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 none "$R/dev/pts"
mount -t tmpfs -o mode=1777 none "$R/dev/shm"
for name in null zero full random urandom tty; do touch "$R/dev/$name"; mount --bind "/dev/$name" "$R/dev/$name"; done
ln -s pts/ptmx "$R/dev/ptmx"; ln -s /proc/self/fd "$R/dev/fd"
ln -s fd/0 "$R/dev/stdin"; ln -s fd/1 "$R/dev/stdout"; ln -s fd/2 "$R/dev/stderr"
mount -t cgroup2 none "$R/sys/fs/cgroup"
U=$R/etc/systemd/system
rm -rf "$U"; mkdir -p "$U"
for name in $MASKED; do ln -s /dev/null "$U/$name.service"; done
: > "$R/etc/fstab"
# A boot empties /tmp, where this checkout may lie.
mkdir -p "$R/etc/tmpfiles.d"; ln -sf /dev/null "$R/etc/tmpfiles.d/tmp.conf"
echo 0123456789abcdef0123456789abcdef > "$R/etc/machine-id"
printf '[Unit]\nRequires=systemd-journald.service dbus.socket\nAfter=systemd-journald.service dbus.socket\n' > "$U/trial.target"
cd "$R"; mkdir -p old-root; pivot_root . old-root; cd /; umount -l /old-root
exec env -i container=trial PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=trial.target \
  --log-target=null --show-status=false
"""


class Machine:
    """A booted systemd.

    Args:
        place: An empty directory, visible inside under the same path.

    Attributes:
        group: The control group below which all of it runs.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.group = _make_group()
        extra = [str(place), *sorted({str(Path(path).resolve()) for path in _needed() if not _is_on_root(path)})]
        environment = {**os.environ, "PLACE": str(place / "machine"), "MASKED": " ".join(_MASKED), "EXTRA": " ".join(extra)}
        (place / "machine").mkdir()
        words = [
            "unshare",
            "--fork",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--cgroup",
            "--kill-child",
            "--propagation",
            "private",
        ]
        boot = os.open(place / "boot", os.O_CREAT | os.O_WRONLY, 0o600)
        self._process = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', self.group, *words, "sh", "-c", _BOOT],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=boot,
        )  # fmt: skip
        os.close(boot)
        try:
            self.pid = until(self._find_pid, seconds=30)
            until(lambda: self.run("systemctl", "is-active", "trial.target").stdout.strip() == "active", seconds=60, every=0.2)
        except BaseException:
            self.close()
            raise

    def run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "env", "-i"]
        variables = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]
        return subprocess.run([*inside, *variables, *words], capture_output=True, text=True, check=False, timeout=timeout)

    def show(self, unit: str, key: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", key, "--value", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """Return what a unit said."""
        return self.run("journalctl", "--no-pager", "--output", "cat", "--unit", unit).stdout

    def pid_outside(self, pid: int) -> int:
        """Return our own number for a process of the machine."""
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                numbers = Path(f"/proc/{process.pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
            except OSError:
                continue
            if int(numbers[-1]) == pid:
                return process.pid
        raise AssertionError(f"nobody is PID {pid} in the machine")

    def close(self) -> None:
        """Switch off, and take the control group away."""
        self._process.kill()
        self._process.wait()
        (Path(self.group) / "cgroup.kill").write_text("1")
        until(lambda: _remove_group(Path(self.group)), every=0.05)

    def _find_pid(self) -> int | None:
        assert self._process.poll() is None, (self.place / "boot").read_text()
        for child in psutil.Process(self._process.pid).children():
            try:
                if child.cmdline()[:1] == [SYSTEMD]:
                    return child.pid
            except psutil.Error:
                continue
        return None


def boot_or_skip(place: Path) -> Machine:
    """Boot, or skip with the reason and the fix."""
    if not os.path.exists(SYSTEMD) or not shutil.which("dbus-daemon"):
        pytest.skip("needs systemd and dbus; apt-get install systemd dbus")
    if os.getuid() != 0:
        pytest.skip("a private systemd needs namespaces of root; run the tests as root")
    if _find_cgroup2() is None:
        pytest.skip("needs cgroup v2; mount -t cgroup2 none /sys/fs/cgroup")
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--cgroup", "--net", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no private namespaces here ({tried.stderr.strip()}); start the container with --privileged")
    return Machine(place)


def _find_cgroup2() -> str | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(path, os.W_OK):
            return path
    return None


def _make_group() -> str:
    top = _find_cgroup2()
    assert top is not None
    path = os.path.join(top, f"unsloth-watch-trial-{os.getpid()}-{os.urandom(2).hex()}")
    os.mkdir(path)
    return path


def _remove_group(group: Path) -> bool:
    """Remove a control group and those below it; False while somebody is still in one."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return not group.exists()
    return True


def _needed() -> list[str]:
    return [sys.prefix, sys.base_prefix, os.path.dirname(unsloth_watch.__file__)]


def _is_on_root(path: str) -> bool:
    return os.stat(path).st_dev == os.stat("/").st_dev
