"""A systemd unit for a supervised command: every line that is there has its reason beside it.

Source of the keys: systemd.service(5), systemd.exec(5), systemd.kill(5), version 252.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from unsloth_watch.errors import (
    EXIT_CONFIG,
    EXIT_GAVE_UP,
    EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND,
    EXIT_START_LIMIT,
    EXIT_SUPERVISOR,
    EXIT_UNKILLABLE,
    EXIT_USAGE,
)

MARK = "# Written by: unsloth-watch service"
"""First line of every unit of ours: what does not begin so is not overwritten."""
_FINAL = (EXIT_USAGE, EXIT_START_LIMIT, EXIT_CONFIG, EXIT_UNKILLABLE, EXIT_GAVE_UP, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND)
_STOPPED = (129, 130, 131, 143)
"""128 + HUP, INT, QUIT, TERM: the command ended because it was told to."""


class Unit(msgspec.Struct, frozen=True):
    """What is particular to one service.

    Attributes:
        name: Name of the run and, behind ``unsloth-watch-``, of the unit.
        program: Words that start unsloth-watch; the first is an absolute path.
        options: Options for it.
        command: The command.
        directory: Working directory.
        environment: Variables that the unit itself carries; no secrets.
        environment_file: File for the others, optional for systemd.
        reload_options: Options by which ``unsloth-watch reload`` finds the run.
        user: Account that it runs as; None for root, or under a user manager.
        is_user: Whether it is for a user's own manager.
    """

    name: str
    program: tuple[str, ...]
    options: tuple[str, ...]
    command: tuple[str, ...]
    directory: str
    environment: dict[str, str]
    environment_file: str
    reload_options: tuple[str, ...] = ()
    user: str | None = None
    is_user: bool = False


def render_unit(unit: Unit) -> str:
    """Return the text of the unit file."""
    return "\n".join(_lines(unit)) + "\n"


def _lines(unit: Unit) -> Iterator[str]:
    yield MARK
    yield "# Make it again rather than edit it, or put changes into a drop-in (systemctl edit)."
    yield "[Unit]"
    yield f"Description={_escape_percent(unit.name)} under unsloth-watch"
    if not unit.is_user:
        yield "Wants=network-online.target"
        yield "After=network-online.target"
    yield "# Five starts an hour: what fails more often needs a person. Hangs are relaunched inside, with limits of their own."
    yield "StartLimitIntervalSec=1h"
    yield "StartLimitBurst=5"
    yield ""
    yield "[Service]"
    yield "# Ready once the command was executed; every word comes from the supervisor itself, never from the job."
    yield "Type=notify"
    yield "NotifyAccess=main"
    if unit.user is not None:
        yield f"User={unit.user}"
    yield f"WorkingDirectory={_escape_percent(unit.directory)}"
    yield from (f"Environment={quote_word(f'{name}={value}')}" for name, value in unit.environment.items())
    yield "# For tokens and the like, mode 0600; may be absent."
    yield f"EnvironmentFile=-{_escape_percent(unit.environment_file)}"
    yield f"ExecStart={quote_command((*unit.program, *unit.options, '--', *unit.command))}"
    yield f"ExecReload={quote_command((*unit.program, 'reload', *unit.reload_options, '--', unit.name))}"
    yield from _restarting()
    yield from _ending()
    yield from _hardening(unit.is_user)
    yield ""
    yield "[Install]"
    yield f"WantedBy={'default.target' if unit.is_user else 'multi-user.target'}"


def _restarting() -> Iterator[str]:
    yield ""
    yield "# Restarted when the supervisor was killed, stood still or failed. The command's own failures are the business of"
    yield "# --restart-on: two that restart would multiply each other's limits."
    yield "Restart=on-abnormal"
    yield f"RestartForceExitStatus={EXIT_SUPERVISOR}"
    yield f"RestartPreventExitStatus={' '.join(map(str, _FINAL))}"
    yield f"SuccessExitStatus={' '.join(map(str, _STOPPED))}"
    yield "RestartSec=10s"
    yield "# Fed by the detection loop, nobody else. Generous: a run directory on a dead network disk is no reason to lose the job."
    yield "WatchdogSec=3min"
    yield "# A supervisor has nothing to save, and a stopped one hears nothing but this."
    yield "WatchdogSignal=SIGKILL"


def _ending() -> Iterator[str]:
    yield ""
    yield "# SIGTERM to the supervisor, which passes it on once; SIGKILL to whoever is left. Extended while the job still saves,"
    yield "# and longer than the default stall timeout, so that a save that hangs is explained before it is killed."
    yield "KillMode=mixed"
    yield "TimeoutStopSec=5min"
    yield "# A control group of its own below ours, for cgroup.kill."
    yield "Delegate=yes"
    yield "# The job's death by memory is seen, told and judged by the supervisor; systemd would end the whole service."
    yield "OOMPolicy=continue"


def _hardening(is_user: bool) -> Iterator[str]:
    yield ""
    yield "# Left out because they break the job: MemoryDenyWriteExecute (JIT), PrivateDevices and DevicePolicy (GPU), ProtectHome"
    yield "# and PrivateTmp (caches), filters without ptrace and process_vm_readv (py-spy), ProtectProc and ProcSubset (senses)."
    yield from (f"{key}=yes" for key in ("NoNewPrivileges", "RestrictSUIDSGID", "LockPersonality", "RestrictNamespaces"))
    yield "SystemCallArchitectures=native"
    yield "SystemCallErrorNumber=EPERM"
    yield "SystemCallFilter=~@mount @swap @reboot @module @raw-io @clock @cpu-emulation @obsolete"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    if is_user:
        return
    yield "# A user's own manager cannot set these: they need its rights."
    yield "CapabilityBoundingSet="
    yield "ProtectSystem=full"
    yield from (
        f"{key}=yes"
        for key in ("ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables")
    )


def quote_command(words: Sequence[str]) -> str:
    """Return words as an ``Exec…=`` line gives them back: nothing of them is expanded."""
    # The program's own path is never expanded by ``$``, so doubling it there would change it.
    return " ".join(quote_word(word if index == 0 else word.replace("$", "$$")) for index, word in enumerate(words))


def quote_word(word: str) -> str:
    """Return one word in systemd's quoting, specifiers (``%``) disarmed."""
    escaped = _escape_percent(word)
    for sign, code in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        escaped = escaped.replace(sign, code)
    is_plain = word != "" and all(sign.isalnum() or sign in "-_./=:,+@%$~" for sign in word)
    return escaped if is_plain else f'"{escaped}"'


def _escape_percent(text: str) -> str:
    return text.replace("%", "%%")


def carry_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a command found its programs and libraries by; nothing that could be a secret."""
    return {name: environment[name] for name in CARRIED if environment.get(name)}


CARRIED = (
    *("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG", "TZ"),
    *(
        "CUDA_HOME",
        "CUDA_VISIBLE_DEVICES",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
    ),
)
"""Names of those variables."""
