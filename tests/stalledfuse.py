"""A file system whose program stops answering: mounts itself in a private namespace, runs a command there, and answers no read.

``stalledfuse.py DIRECTORY COMMAND...``: DIRECTORY then holds ``weights.bin``, which can be looked up and opened. The first line
printed is ``mounted``, or ``refused: WHY`` where the kernel does not allow it. Ends with its standard input; the kernel then fails
the read. Standard library only: the few messages of the kernel's FUSE protocol (``linux/fuse.h``) that an open needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys

SIZE = 1 << 30
_NEW_NAMESPACE = 0x20000  # CLONE_NEWNS
_PRIVATE = 0x44000  # MS_REC | MS_PRIVATE
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _INIT, _OPENDIR = 1, 2, 3, 14, 15, 26, 27
_FILE = 2  # the one file's number; 1 is the root


def main() -> None:
    directory, command = sys.argv[1], sys.argv[2:]
    try:
        device = mount(directory)
    except OSError as error:
        print(f"refused: {error}", flush=True)
        return
    print("mounted", flush=True)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while True:
            ready, _, _ = select.select([device, 0], [], [])
            if 0 in ready:
                break
            answer(device, os.read(device, 1 << 18))
    finally:
        os.close(device)  # what waits for an answer gets an error now
        child.kill()
        child.wait()


def mount(directory: str) -> int:
    """Mount the file system and return its descriptor."""
    library = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    check(library.unshare(_NEW_NAMESPACE))
    check(library.mount(b"none", b"/", None, _PRIVATE, None))
    check(library.mount(b"stalled-server", directory.encode(), b"fuse.stalled", 0, options))
    return device


def check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def answer(device: int, request: bytes) -> None:
    """Answer one request; a read is never answered."""
    _, operation, unique, node = struct.unpack_from("=IIQQ", request)
    if operation in (_READ, _FORGET):
        return
    body, code = b"", 0
    if operation == _INIT:
        body = struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 10, 1 << 17, 1, 0, 0, 0)
    elif operation == _LOOKUP:
        if request[40:].rstrip(b"\0") == b"weights.bin":
            body = struct.pack("=QQQQII", _FILE, 0, 3600, 3600, 0, 0) + attributes(_FILE)
        else:
            code = -errno.ENOENT
    elif operation == _GETATTR:
        body = struct.pack("=QII", 3600, 0, 0) + attributes(node)
    elif operation in (_OPEN, _OPENDIR):
        body = struct.pack("=QII", 1, 1, 0)  # direct: each read asks this program
    else:
        code = -errno.ENOSYS
    os.write(device, struct.pack("=IiQ", 16 + len(body), code, unique) + body)


def attributes(node: int) -> bytes:
    is_file = node == _FILE
    mode = stat.S_IFREG | 0o644 if is_file else stat.S_IFDIR | 0o755
    return struct.pack(
        "=QQQQQQIIIIIIIIII", node, SIZE if is_file else 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0
    )


main()
