"""The place where the floors of this host's cards are kept between runs."""

from __future__ import annotations

import os

from unsloth_watch.sense.floor import FloorBook
from unsloth_watch.supervise import clock
from unsloth_watch.tell.directory import find_base


def open_floors() -> FloorBook:
    """Return the book of this user and host; where home is shared between hosts, the devices' UUIDs keep them apart."""
    return FloorBook(os.path.join(os.path.dirname(find_base(os.environ)), "gpu-floors.json"), clock.wall)
