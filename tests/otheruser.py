"""Becoming another user, where this machine and the place of the checkout allow it; asked by trying."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

BECOME = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


@functools.cache
def _explain_refusal() -> str | None:
    if os.geteuid() != 0:
        return "becoming another user needs root; run the tests as root, or with `unshare --map-auto -r`"
    tried = subprocess.run([*BECOME, sys.executable, "-c", "import unsloth_watch"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        said = tried.stderr.strip().splitlines()[-1:]
        return f"another user cannot run this interpreter ({' '.join(said)}); let others read the checkout and its parents"
    return None


def require_other_user() -> tuple[str, ...]:
    """Return the words that run a command as another user, or skip with the reason and the fix."""
    refusal = _explain_refusal()
    if refusal is not None:
        pytest.skip(refusal)
    return BECOME
