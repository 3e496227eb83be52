"""The exit status of a process that is not our child, from the kernel's own record behind a pidfd.

Source: ``include/uapi/linux/pidfd.h``, PIDFD_INFO_EXIT, Linux 6.15. Older kernels tell nobody but the parent.
"""

from __future__ import annotations

import fcntl
import struct

_GET_INFO = 0xC040FF0B
"""``_IOWR(0xFF, 11, struct pidfd_info)`` with the first version's 64 bytes."""
_EXIT = 1 << 3
_LAYOUT = struct.Struct("=QQ11Ii")
"""Mask, control group, PID, TGID, PPID, eight user and group ids, and the wait status."""


def read_exit_status(pidfd: int) -> int | None:
    """Return the wait status of a process that has ended and was waited for; None before that, and where the kernel does not say.

    Args:
        pidfd: Descriptor of the process.
    """
    request = bytearray(_LAYOUT.size)
    _LAYOUT.pack_into(request, 0, _EXIT, *[0] * 12, 0)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except OSError:  # ENOTTY or EINVAL of an older kernel, ESRCH where it had gone before we could ask
        return None
    mask, *_, status = _LAYOUT.unpack(request)
    return int(status) if mask & _EXIT else None
