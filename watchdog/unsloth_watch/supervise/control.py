"""The control socket: one question, one answer, a line of JSON each; a client can never hold the loop up.

Every descriptor is nonblocking, every client has a deadline and a size, and there are few of them at a time. Only the owner of
this process (and root) is answered: the kernel says who asks (SO_PEERCRED), whatever the modes of the directory are.
"""

from __future__ import annotations

import os
import select
import struct

# The C half of ``socket``, as in ``heartbeat``: the Python half takes 3 ms on the way of a command that ends at once.
from _socket import AF_UNIX, MSG_NOSIGNAL, SO_PEERCRED, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket
from collections.abc import Callable

import msgspec

from unsloth_watch.tell.lines import encode_line

NAME = "control"
"""Name of the socket in the run directory."""
_MOST_CLIENTS = 8
_QUEUE = 64
"""Clients that the kernel lets wait to be accepted; more would have to try again."""
_LONGEST_REQUEST = 64 * 1024
_CLIENT_S = 5.0
"""Seconds that a client has from its connection to its answer taken."""
_PEER = struct.Struct("3i")
"""``struct ucred``: PID, user and group."""


class Request(msgspec.Struct, frozen=True):
    """What a client asks.

    Attributes:
        verb: A name of ``orders.ORDERS``.
        fields: Arguments of the verb, by name.
    """

    verb: str
    fields: dict[str, str] = {}


class _Client:
    def __init__(self, channel: socket, until: float) -> None:
        self.channel = channel
        self.until = until
        self.received = b""
        self.unsent = b""


class ControlSocket:
    """Listens in the run directory.

    Args:
        directory: The run directory.
        poller: The loop's poller; the socket and its clients are registered there.
        answer: Gives the answer to a request, at once.

    Attributes:
        trouble: Why there is no socket, None where there is one.
    """

    def __init__(self, directory: str, poller: select.poll, answer: Callable[[Request], dict[str, object]]) -> None:
        self.trouble: str | None = None
        self._path = os.path.join(directory, NAME)
        self._poller = poller
        self._answer = answer
        self._clients: dict[int, _Client] = {}
        self._asking: _Client | None = None
        self._listener: socket | None = None
        try:
            self._listener = _listen(directory)
        except OSError as error:  # a file system without sockets, a full disk: the run does without
            self.trouble = f"no control socket in {directory}: {error.strerror or error}"
            return
        self._poller.register(self._listener.fileno(), select.POLLIN)

    def serve(self, now: float) -> None:
        """Accept, read, answer and send whatever can be done at once; drop who is late.

        Args:
            now: Monotonic seconds.
        """
        if self._listener is None:
            return
        has_room = self._accept(now)
        for client in list(self._clients.values()):
            if now > client.until or not self._attend(client):
                self._drop(client)
        # Who cannot be accepted yet must not wake the loop again and again.
        self._listen_for(select.POLLIN if has_room and len(self._clients) < _MOST_CLIENTS else 0)

    def _listen_for(self, events: int) -> None:
        """Let the loop wake for newcomers or not; to nobody's harm where an order has ended the run meanwhile."""
        if self._listener is not None:
            self._poller.register(self._listener.fileno(), events)

    @property
    def is_busy(self) -> bool:
        """Whether a client is connected, so that the loop must come back for its deadline."""
        return bool(self._clients)

    def close(self) -> None:
        """Remove the socket and stop listening: in this order, so that who is dropped can see that the run is over."""
        if self._listener is not None:
            try:
                os.unlink(self._path)
            except OSError:  # the run directory is gone
                pass
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for client in list(self._clients.values()):
            if client is not self._asking:  # whose order is the end still gets its answer
                self._drop(client)

    def _accept(self, now: float) -> bool:
        """Accept whoever waits; False when somebody may wait who cannot be accepted now."""
        assert self._listener is not None
        while len(self._clients) < _MOST_CLIENTS:
            try:
                descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # what ``socket.accept`` calls
            except BlockingIOError:
                return True
            except OSError:  # no descriptor is left
                return False
            channel = socket(fileno=descriptor)
            channel.setblocking(False)
            if not _is_permitted(channel):
                channel.close()
                continue
            self._clients[channel.fileno()] = _Client(channel, now + _CLIENT_S)
            self._poller.register(channel.fileno(), select.POLLIN)
        return False

    def _attend(self, client: _Client) -> bool:
        """Do what can be done for a client; False when it is done with."""
        try:
            if not client.unsent:
                part = client.channel.recv(65536)
                client.received += part
                line, has_end, _ = client.received.partition(b"\n")
                if not has_end:
                    return bool(part) and len(client.received) <= _LONGEST_REQUEST
                self._asking = client
                client.unsent = encode_line(self._respond(line)) + b"\n"
                self._asking = None
                self._poller.modify(client.channel.fileno(), select.POLLOUT)
            client.unsent = client.unsent[client.channel.send(client.unsent, MSG_NOSIGNAL) :]
        except BlockingIOError:
            return True
        except OSError:  # it has gone away
            return False
        return bool(client.unsent)

    def _respond(self, line: bytes) -> dict[str, object]:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return {"ok": False, "error": f"not a request: {error}"}
        try:
            return self._answer(request)
        except Exception as error:  # a question must not be able to end the run, and the job with it; who asked hears of the fault
            return {"ok": False, "error": f"the supervisor failed at it: {type(error).__name__}: {error}"}

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.channel.fileno(), None)
        try:
            self._poller.unregister(client.channel.fileno())
        except KeyError:
            pass
        client.channel.close()


def _listen(directory: str) -> socket:
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By way of the descriptor: a socket's path has 107 bytes at most, and a run directory may be longer.
        path = f"/proc/self/fd/{folder}/{NAME}"
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(_QUEUE)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def _is_permitted(channel: socket) -> bool:
    _, uid, _ = _PEER.unpack(channel.getsockopt(SOL_SOCKET, SO_PEERCRED, _PEER.size))
    return uid in (0, os.geteuid())
