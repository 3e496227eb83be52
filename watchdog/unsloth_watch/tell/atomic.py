"""Whole files: the old content or the new one, never half of either."""

from __future__ import annotations

import os


def write_atomically(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write ``data`` beside ``path`` and rename it into place.

    There is no fsync: a rename is enough against SIGKILL and a full disk, which is what the contract promises, and an fsync
    on a busy network disk would stop the loop for seconds.

    Args:
        path: Target; its directory must exist.
        data: The whole content.
        mode: Permissions of a new file.

    Raises:
        OSError: Nothing was changed; the temporary file is removed as far as that is possible.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # the first error is the one that explains
        raise
