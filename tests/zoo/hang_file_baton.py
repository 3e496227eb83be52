"""A compile lock of torch's extensions was left by a killed build."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file"]
# culprit = ["FileBaton", "file_baton"]
# provable = true
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

from torch.utils.file_baton import FileBaton

import zoo


def main():
    zoo.warm_up()
    lock = zoo.directory() / "fused_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    baton = FileBaton(str(lock))
    if not baton.try_acquire():
        zoo.say_hang()
        baton.wait()
    zoo.finish()


main()
