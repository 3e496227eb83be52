"""A torch DataLoader with two slow workers; a batch every half stall timeout, printed without numbers."""

# /// zoo
# expect = "healthy"
# lives_by = "output"
# seconds = "3*S"
# needs = ["torch"]
# stdin = "null"
# ///

from __future__ import annotations

from torch.utils.data import DataLoader, Dataset

import zoo


class Rows(Dataset):
    """Rows that are slow to decode."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        zoo.compute(zoo.stall() / 4)
        return float(index)


for _ in DataLoader(Rows(), batch_size=2, num_workers=2):
    print("next batch", flush=True)
zoo.finish()
