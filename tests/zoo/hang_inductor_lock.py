"""Inductor's file lock of a kernel is held by a live process outside the tree."""

# /// zoo
# expect = "hang"
# causes = ["lock-held-elsewhere"]
# culprit = ["inductor.lock"]
# provable = false
# needs = ["torch"]
# stdin = "null"
# cure = "environment"
# timeouts = "stall"
# outside = ["flock", "inductor.lock"]
# ///

from __future__ import annotations

from torch.utils._filelock import FileLock

import zoo


def main():
    zoo.warm_up()
    path = zoo.outside("flock", "inductor.lock")
    zoo.say_hang()
    # As torch._inductor.codecache does for every kernel: 600 s.
    with FileLock(str(path), timeout=600):
        zoo.finish()


main()
