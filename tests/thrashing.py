"""A program that works on more memory than its control group allows: ``thrashing.py GROUP FILE``; prints ``thrashing``.

GROUP is a memory control group of cgroup v1 or v2 whose limit is set. FILE is mapped and walked through again and again, so that the
kernel has to drop pages that are needed a moment later.
"""

from __future__ import annotations

import mmap
import os
import sys


def main() -> None:
    group, path = sys.argv[1:]
    with open(os.path.join(group, "cgroup.procs"), "w") as members:
        members.write(str(os.getpid()))
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # pages that the writer cached count for the writer's group
        weights = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    weights.madvise(mmap.MADV_RANDOM)  # no reading ahead: each page is a fault of its own
    print("thrashing", flush=True)
    while True:
        sum_pages(weights)


def sum_pages(weights: mmap.mmap) -> int:
    total = 0
    for place in range(0, len(weights), mmap.PAGESIZE):
        total += weights[place]
    return total


main()
