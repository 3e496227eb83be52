"""The first step compiles with Inductor's C++ backend for some seconds; then quick steps."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "40"
# needs = ["torch"]
# stdin = "null"
# ///

from __future__ import annotations

import os

import zoo

os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(zoo.directory() / "inductor")

import torch


@torch.compile
def step(x, weights):
    for weight in weights:
        x = torch.nn.functional.silu(x @ weight).softmax(-1) + x.cumsum(0).sin()
    return x.sum()


weights = [torch.randn(32, 32, requires_grad=True) for _ in range(12)]
for number in range(6):
    loss = step(torch.ones(8, 32), weights)
    loss.backward()
    print(f"step {number + 1}/6 loss {loss.item():.3f}", flush=True)
zoo.finish()
