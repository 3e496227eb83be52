"""What private namespaces this machine lets us have; asked by trying, never guessed."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest


@functools.cache
def find_unshare(*kinds: str) -> tuple[str, ...] | None:
    """Return the words that run a command as root of private namespaces, None where the kernel does not allow it."""
    ways = [("unshare",), ("unshare", "--user", "--map-root-user")]
    for way in ways if os.getuid() == 0 else ways[1:]:
        words = (*way, *kinds)
        try:
            tried = subprocess.run([*words, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False, timeout=20)
        except OSError:
            return None
        if tried.returncode == 0:
            return words
    return None


def require_unshare(*kinds: str) -> tuple[str, ...]:
    """Return the words, or skip with the reason and the fix."""
    words = find_unshare(*kinds)
    if words is None:
        pytest.skip(f"no private namespaces ({' '.join(kinds)}): run as root, or set kernel.unprivileged_userns_clone=1")
    return words
