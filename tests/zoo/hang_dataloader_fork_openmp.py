"""DataLoader workers are forked after OpenMP ran in the parent, and use OpenMP themselves."""

# /// zoo
# expect = "hang"
# causes = ["fork-deadlock", "stuck-worker"]
# culprit = ["__getitem__", "augment", "matmul"]
# provable = true
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

import zoo


class Augmented(Dataset):
    """Augments with torch operations that are large enough for several threads."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.augment(torch.ones(400, 4000))

    def augment(self, image):
        return torch.exp(image).sum(0)


def more_threads(_worker):
    zoo.say_hang()
    torch.set_num_threads(2)


def main():
    torch.set_num_threads(2)
    zoo.warm_up()
    torch.exp(torch.ones(4000, 4000)).sum(0)
    for _ in DataLoader(Augmented(), batch_size=4, num_workers=1, worker_init_fn=more_threads, multiprocessing_context="fork"):
        print("batch", flush=True)


main()
