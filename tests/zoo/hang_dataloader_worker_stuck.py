"""A DataLoader's forked worker waits for a prefetch thread that only the parent has."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "abandoned-wait", "fork-deadlock"]
# culprit = ["load_row", "__getitem__"]
# provable = true
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

from torch.utils.data import DataLoader, Dataset

import zoo

prefetched = threading.Event()


class Rows(Dataset):
    """Rows that a prefetch thread makes ready."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.load_row(index)

    def load_row(self, index):
        if index == 17:
            zoo.say_hang()
            prefetched.wait()
        return float(index)


def main():
    zoo.warm_up()
    threading.Thread(target=prefetch, daemon=True).start()
    for batch in DataLoader(Rows(), batch_size=4, num_workers=2):
        print("batch", batch.sum().item(), flush=True)
    zoo.finish()


def prefetch():
    """Fill the cache; what it sets is set in the parent's memory alone."""
    zoo.compute(0.5)
    prefetched.set()


main()
