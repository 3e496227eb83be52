"""The entry: our options, a verb or a command. The way to the command's exec imports nothing that it does not need."""

from __future__ import annotations

import gc
import os
import sys

from unsloth_watch.errors import EXIT_NOT_FOUND, EXIT_SUPERVISOR, UsageError, WatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = (
    "attach",
    "bundle",
    "cache",
    "capture",
    "doctor",
    "inspect",
    "pause",
    "reload",
    "replay",
    "report",
    "restart",
    "resume",
    "runs",
    "service",
    "show",
    "stop",
)
"""First words that are a verb of ours; after ``--`` everything is the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes them from the process.

    Returns:
        The exit status; see ``errors`` for the supervisor's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in VERBS:
            return _run_verb(words[0], words[1:])
        if words and words[0] in ("-h", "--help", "help"):
            from unsloth_watch.cli.guide import describe_main  # noqa: PLC0415

            sys.stdout.write(describe_main())
            return 0
        if words and words[0] in ("-V", "--version"):
            from unsloth_watch.__about__ import __version__  # noqa: PLC0415

            sys.stdout.write(f"unsloth-watch {__version__}\n")
            return 0
        return _watch(words)
    except WatchError as error:
        from unsloth_watch.tell.console import clean_line  # noqa: PLC0415 - only for words that may quote names of files

        sys.stderr.write(f"unsloth-watch: {clean_line(str(error))}\n")
        return error.exit_code
    except Exception as error:  # a defect of ours: the traceback is for its report, and the guardian ends the job with us
        # Not by ``traceback``: its import fails where no descriptor is left.
        sys.__excepthook__(type(error), error, error.__traceback__)
        sys.stderr.write("unsloth-watch: the supervisor failed; please report the lines above\n")
        return EXIT_SUPERVISOR


def _run_verb(verb: str, words: list[str]) -> int:
    import importlib  # noqa: PLC0415 - verbs are not on the launch path

    # Paths need not be UTF-8, nor a terminal know our arrows: neither may cost the answer.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="backslashreplace")
    module = importlib.import_module(f"unsloth_watch.cli.{verb}")
    try:
        status: int = module.main(words)
        sys.stdout.flush()
    except KeyboardInterrupt:  # somebody had waited long enough: for ``stop``, ``inspect``, ``capture``
        return 130
    except BrokenPipeError:
        if not _has_lost_reader():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is flushed at exit, and has to go somewhere
        return 141
    return status


def _has_lost_reader() -> bool:
    """Whether nobody reads our standard output any more (``… | head``): 128 + SIGPIPE then says so, as other programs do."""
    import select  # noqa: PLC0415 - only then

    poller = select.poll()
    poller.register(1, 0)
    return any(state & select.POLLERR for _, state in poller.poll(0))


def _watch(words: list[str]) -> int:
    """Launch and supervise: the main job."""
    from unsloth_watch.config.load import load_settings, split_command_line  # noqa: PLC0415

    options, command = split_command_line(words)
    if not command or not command[0]:
        raise UsageError("no command to run; write unsloth-watch [OPTIONS] -- COMMAND [ARG]..., or see unsloth-watch --help")
    try:
        directory = os.getcwd()
    except OSError as error:
        raise WatchError(f"the working directory cannot be read ({error.strerror}); change to one that exists") from None
    settings = load_settings(options, os.environ, directory)

    if settings.cache_prune is not None:
        from unsloth_watch.supervise.housekeeping import prune_before_launch  # noqa: PLC0415 - only where it is asked for

        prune_before_launch(settings.cache_prune)
    from unsloth_watch.supervise.launch import Launch  # noqa: PLC0415

    launch = Launch(settings, command, os.environ)
    launch.reread = lambda: load_settings(options, os.environ, directory)
    try:
        started = launch.start(1, {})
    except WatchError as error:
        launch.discard()
        _name_verb(error, command[0])
        raise
    # The command runs. From here on there is time to import.
    gc.disable()  # all of this stays: to look through it while it comes, and ever after, takes 2 ms and dirties its pages
    from unsloth_watch.supervise.run import begin  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    run = begin(launch, started)
    status = run.supervise()
    ending = run.job.ending
    # A service ends with 128+n: its manager must be able to tell the command's death from ours.
    if ending is not None and ending.signal is not None and status == ending.exit_code and not run.manager.is_present:
        from unsloth_watch.supervise.signals import end_like  # noqa: PLC0415

        sys.stdout.flush()
        end_like(ending.signal)
    return status


def _name_verb(error: WatchError, word: str) -> None:
    """Add the verb that was meant to the error about a command that was not found."""
    from unsloth_watch.config.option import nearest  # noqa: PLC0415 - only for an error message

    verb = nearest(word, VERBS) if error.exit_code == EXIT_NOT_FOUND else None
    if verb is not None:
        error.args = (f"{error}; did you mean unsloth-watch {verb}?",)


if __name__ == "__main__":
    sys.exit(main())
