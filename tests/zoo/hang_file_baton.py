"""A compile lock of torch's extensions was left by a killed build."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file"]
# culprit = ["FileBaton", "file_baton"]
# provable = false  # whoever removes the file ends it
# needs = ["torch"]
# stdin = "null"
# cure = "quarantine"
# timeouts = "stall"
# ///

from __future__ import annotations

from torch.utils.file_baton import FileBaton

import zoo


def main():
    zoo.warm_up()
    lock = zoo.directory() / "fused_adam" / "lock"
    lock.parent.mkdir(exist_ok=True)
    if zoo.is_first():
        lock.touch()
    baton = FileBaton(str(lock))
    if not baton.try_acquire():
        zoo.say_hang()
        baton.wait()
    zoo.finish()


main()
