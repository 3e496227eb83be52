"""A DataLoader with a time-out of two seconds: what does not come in time is asked for again, and at last left out by a new loader."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 8"
# needs = ["torch"]
# stdin = "null"
# ///

from __future__ import annotations

import threading
import time

from torch.utils.data import DataLoader, Dataset

import zoo


class Rows(Dataset):
    """Rows of which one may never be there."""

    def __init__(self, missing):
        self.missing = missing

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == self.missing:
            threading.Event().wait()
        return float(index)


def read(missing):
    batches = iter(DataLoader(Rows(missing), batch_size=2, num_workers=1, timeout=2))
    late = time.monotonic() + 0.6 * zoo.stall()
    for number in range(12):
        while True:
            try:
                batch = next(batches)
                break
            except RuntimeError:
                if time.monotonic() > late:
                    return False
        print(f"batch {number + 1}/12 {batch.sum().item()}", flush=True)
    return True


if not read(missing=13):
    print("row 13 is left out", flush=True)
    read(missing=None)
zoo.finish()
