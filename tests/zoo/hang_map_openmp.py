"""datasets.map forks after torch has used OpenMP; the function uses it too."""

# /// zoo
# expect = "hang"
# causes = ["fork-deadlock", "stuck-worker"]
# culprit = ["embed"]
# provable = true
# needs = ["datasets", "torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
import torch

import zoo


def embed(row):
    torch.set_num_threads(2)
    if row["id"] == 0:
        zoo.say_hang()
    return {"x": torch.exp(torch.ones(400, 4000)).sum().item()}


def main():
    torch.set_num_threads(2)
    zoo.warm_up()
    torch.exp(torch.ones(4000, 4000)).sum()
    datasets.Dataset.from_dict({"id": list(range(20))}).map(embed, num_proc=2, new_fingerprint="z")


main()
