"""A DataLoader whose worker waits for a slow store at every batch; the trainer polls for it as torch does."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "1.2*S + 3"
# needs = ["torch"]
# stdin = "null"
# ///

from __future__ import annotations

import time

from torch.utils.data import DataLoader, Dataset

import zoo


class Slow(Dataset):
    """Rows of which each takes its time."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        time.sleep(0.6 * zoo.stall())
        return float(index)


def main():
    zoo.train(steps=3)
    for index, batch in enumerate(DataLoader(Slow(), num_workers=2, multiprocessing_context="fork")):
        print(f"batch {index + 1}/3 {batch.item()}", flush=True)
    zoo.finish()


main()
