"""A file of weights is mapped and touched slowly, page by page, as from a cold disk."""

# /// zoo
# expect = "healthy"
# lives_by = "page faults"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import mmap
import time

import zoo

SIZE = 400 << 20
path = zoo.directory() / "model.safetensors"
with path.open("wb") as file:
    file.truncate(SIZE)
print("loading weights", flush=True)
end, steps = time.monotonic() + 3 * zoo.stall(), 400
with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as weights:
    total = 0
    for part in range(steps):
        for at in range(part * SIZE // steps, (part + 1) * SIZE // steps, mmap.PAGESIZE):
            total += weights[at]
        time.sleep(max(0.0, (end - time.monotonic()) / (steps - part)))
path.unlink()
zoo.finish()
