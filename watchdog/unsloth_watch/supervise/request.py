"""The other end of the control socket: asks a running supervisor, and waits for its answer."""

from __future__ import annotations

import os
import socket
import struct

import msgspec

from unsloth_watch.errors import CannotLookError, RefusedError
from unsloth_watch.supervise.control import NAME, Request

_ANSWER_S = 10.0
"""Longest wait for an answer: a loop goes round once a second, and its longest own pause is some seconds."""

_OVER = "{}: no supervisor answers; this run is over, see unsloth-watch runs for others"


class NotRunningError(CannotLookError):
    """No supervisor answers for this run: it has ended or was killed."""


def ask(directory: str, verb: str, **fields: str) -> dict[str, object]:
    """Ask the supervisor of a run.

    Args:
        directory: The run directory.
        verb: What to do: a name of ``orders.ORDERS``.
        **fields: The verb's arguments.

    Returns:
        The answer's fields.

    Raises:
        NotRunningError: Nobody listens.
        RefusedError: The supervisor refused.
        CannotLookError: It did not answer in time, or does not answer us.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        # Limits of the kernel, not of Python: a nonblocking connect to a full queue fails instead of waiting.
        for limit in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            channel.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", int(_ANSWER_S), 0))
        try:
            _connect(channel, directory)
            channel.sendall(msgspec.json.encode(Request(verb, fields)) + b"\n")
            answer = _receive(channel)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunningError(_OVER.format(directory)) from None
        except BrokenPipeError:
            answer = b""
        except BlockingIOError:
            raise CannotLookError(f"{directory}: the supervisor does not answer for {_ANSWER_S:g} s; is it stopped?") from None
        except OSError as error:
            raise CannotLookError(f"{directory}: cannot ask the supervisor ({error.strerror or error})") from None
    if not answer and not os.path.lexists(os.path.join(directory, NAME)):  # it ended before our turn came
        raise NotRunningError(_OVER.format(directory))
    if not answer:
        raise CannotLookError(f"{directory}: the supervisor hung up; it answers its own user (and root) only")
    found: dict[str, object] = msgspec.json.decode(answer, type=dict)
    if not found.get("ok"):
        raise RefusedError(str(found.get("error", "the supervisor refused")))
    return found


def _connect(channel: socket.socket, directory: str) -> None:
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        channel.connect(f"/proc/self/fd/{folder}/{NAME}")
    finally:
        os.close(folder)


def _receive(channel: socket.socket) -> bytes:
    parts = []
    try:
        while part := channel.recv(65536):
            parts.append(part)
            if part.endswith(b"\n"):
                break
    except ConnectionResetError:
        return b""
    return b"".join(parts)
