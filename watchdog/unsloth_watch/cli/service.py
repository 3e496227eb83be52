"""``unsloth-watch service print|install``: a systemd unit that starts, watches and restarts a command."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.config.load import load_settings, split_command_line
from unsloth_watch.errors import UsageError, WatchError
from unsloth_watch.supervise.launch import name_command
from unsloth_watch.tell.atomic import write_atomically
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.directory import clean_name
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.unit import MARK, Unit, carry_environment, render_unit

_OWN = ("--user", "--force")
_VERIFY_S = 30.0  # it takes well under a second, unless the bus that it asks does not answer


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        "service",
        "Prints or installs a systemd unit that runs a command under unsloth-watch: ready when it was started, watched by systemd "
        "through the detection loop, stopped with time to save. All options of unsloth-watch may be given.",
        "unsloth-watch service install --user -- python train.py",
        status="0 done, 64 usage, 125 the unit cannot be written",
        usage="unsloth-watch service print|install [--user | --run-as USER] [--force]\n"
        "                             [OPTIONS] [--] COMMAND [ARG]...",
    )
    parser.add_argument(
        "action",
        metavar="print|install",
        choices=("print", "install"),
        help="write it to standard output, or where systemd looks for it",
    )
    manager = parser.add_mutually_exclusive_group()
    manager.add_argument("--user", action="store_true", help="for your own manager (systemctl --user) instead of the system's")
    manager.add_argument("--run-as", metavar="USER", help="account of a system service (default: you, or who called sudo)")
    parser.add_argument("--force", action="store_true", help="install over a unit that is not ours")
    own, rest = _split_own(list(words))
    options = parser.parse_args(own)
    unit = compose_unit(rest, is_user=options.user, run_as=options.run_as)
    text = render_unit(unit)
    has_secret = _warn_of_secrets(unit)
    if options.action == "print":
        sys.stdout.write(text)
    else:
        _install(unit, text, is_forced=options.force, mode=0o600 if has_secret else 0o644)
    return 0


def _warn_of_secrets(unit: Unit) -> bool:
    """Whether the command line looks as if it held a secret; says so, as the file's mode hides it from neither ps nor systemctl."""
    words = [*unit.options, *unit.command]
    if Redactor({}).value(words) == words:
        return False
    sys.stderr.write(
        "unsloth-watch: the command line looks as if it held a secret, which everybody on this machine can then read by systemctl "
        f"show and ps: put it as a variable into {unit.environment_file} (mode 0600), and let the command read it from there\n"
    )
    return True


def _split_own(words: list[str]) -> tuple[list[str], list[str]]:
    """Separate the verb's own words, which come first, from those of the main job."""
    own: list[str] = []
    while words:
        word = words[0]
        is_action = not own and not word.startswith("-")
        if word == "--run-as" and len(words) > 1:
            own += [words.pop(0), words.pop(0)]
        elif is_action or word in (*_OWN, "-h", "--help") or word.startswith("--run-as"):
            own.append(words.pop(0))
        else:
            break
    return own, words


def compose_unit(words: Sequence[str], *, is_user: bool, run_as: str | None) -> Unit:
    """Return the unit for a command line of the main job.

    Raises:
        UsageError: No command, an option that cannot be, ``--run-dir``, or an account that does not exist.
        ConfigError: The settings do not fit together.
    """
    try:
        layer, command = split_command_line(words)
    except UsageError as error:
        end = words.index("--") if "--" in words else len(words)
        late = next((word for word in words[:end] if word in (*_OWN, "--run-as")), None)
        if late is None:
            raise
        raise UsageError(f"{late} goes before all options of the main job: unsloth-watch service print {late} ...") from error
    if not command or not command[0]:
        raise UsageError("no command to run; write unsloth-watch service print [OPTIONS] -- COMMAND [ARG]...")
    if "run_dir" in layer:
        raise UsageError("--run-dir names one run's directory, and a service starts more than once; use --runs-dir DIR")
    directory = os.getcwd()
    if not directory.isprintable():
        raise UsageError(f"the working directory {directory!r} cannot stand in a unit file; change to another")
    settings = load_settings(layer, os.environ, directory)
    options = list(words[: len(words) - len(command)])
    if options[-1:] == ["--"]:
        options.pop()
    name = clean_name(settings.name or os.path.basename(name_command(command)))
    if "name" not in layer:
        options += ["--name", name]
    reload_options = ("--runs-dir", os.path.abspath(settings.runs_dir)) if settings.runs_dir is not None else ()
    return Unit(
        name=name,
        program=_find_program(),
        options=tuple(options),
        command=(_find_command(command[0]), *command[1:]),
        directory=directory,
        environment=carry_environment(os.environ),
        environment_file=os.path.join(os.path.expanduser("~/.config") if is_user else "/etc", "unsloth-watch", f"{name}.env"),
        reload_options=reload_options,
        user=None if is_user else _choose_user(run_as),
        is_user=is_user,
    )


def _find_program() -> tuple[str, ...]:
    """Return the words that start this very installation."""
    script = os.path.join(os.path.dirname(sys.executable), "unsloth-watch")
    return (script,) if os.access(script, os.X_OK) else (sys.executable, "-m", "unsloth_watch")


def _find_command(word: str) -> str:
    """Return the program as the shell would find it now: systemd's own search path is another."""
    if "/" in word:
        return os.path.abspath(word)
    found = shutil.which(word)
    if found is None:
        raise UsageError(f"cannot find {word} in PATH; check the spelling, or give its path")
    return os.path.abspath(found)


def _choose_user(run_as: str | None) -> str | None:
    name = run_as or os.environ.get("SUDO_USER")
    try:
        account = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError:
        raise UsageError(f"there is no account {name or os.getuid()}; name one with --run-as") from None
    return account.pw_name if account.pw_uid else None


def _install(unit: Unit, text: str, *, is_forced: bool, mode: int) -> None:
    folder = os.path.expanduser("~/.config/systemd/user") if unit.is_user else "/etc/systemd/system"
    path = os.path.join(folder, f"unsloth-watch-{unit.name}.service")
    try:
        if os.path.lexists(path) and not is_forced:
            with open(path, encoding="utf-8", errors="replace") as stream:
                if not stream.readline().startswith(MARK):
                    raise WatchError(f"{path} is not ours; choose another --name, or overwrite it with --force")
        os.makedirs(folder, exist_ok=True)
        write_atomically(path, text.encode(), mode)
    except OSError as error:
        hint = "; try --user, or sudo" if not unit.is_user and os.getuid() else ""
        raise WatchError(f"cannot write {path}: {error.strerror}{hint}") from None
    _verify(path, is_user=unit.is_user)
    systemctl = "systemctl --user" if unit.is_user else "systemctl"
    service = os.path.basename(path)
    sys.stdout.write(f"wrote {path}\n")
    if not unit.is_user:
        # Seen with the NVIDIA container toolkit: "Failed to initialize NVML: Unknown Error" until the container is restarted.
        sys.stdout.write("careful: systemctl daemon-reload can take the GPU away from containers that run now\n")
    sys.stdout.write(f"next: {systemctl} daemon-reload && {systemctl} enable --now {service}\n")


def _verify(path: str, *, is_user: bool) -> None:
    """Let systemd itself read the unit, where it is there; it warns of unknown keys and does not fail."""
    if shutil.which("systemd-analyze") is None:
        return
    words = ["systemd-analyze", *(["--user"] if is_user else []), "--recursive-errors=no", "--man=no", "verify", path]
    try:
        result = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=_VERIFY_S)
    except (OSError, subprocess.TimeoutExpired) as error:  # the unit is written all the same
        sys.stderr.write(f"unsloth-watch: systemd-analyze did not look at it: {clean_line(str(error))}\n")
        return
    for line in result.stderr.splitlines():
        sys.stderr.write(f"unsloth-watch: systemd-analyze: {clean_line(line)}\n")
