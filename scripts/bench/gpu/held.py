"""The founding hang with GPU memory held: 20 GB on the card while unsloth_zoo 2025.3.1 retries an import for ever.

To be started as ``python scripts/held.py`` from the folder above, with unsloth_zoo 2025.3.1 and an empty package ``unsloth`` on
PYTHONPATH; needs a GPU.
"""

from __future__ import annotations

import os
import time

os.environ["UNSLOTH_IS_PRESENT"] = "1"

import torch
from unsloth_zoo.compiler import create_new_function

SOURCE = "def scaled_mse(prediction, target, scale):\n    return F.mse_loss(prediction, target) * scale\n"
HELD_BYTES = 20 << 30

held = torch.zeros(HELD_BYTES, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print(f"## {time.time():.3f} HANG founding", flush=True)
loss = create_new_function("scaled_mse", SOURCE, "torch.nn", []).scaled_mse
model = torch.nn.Linear(4, 1).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(64, 4, device="cuda")
for step in range(1, 21):
    optimizer.zero_grad()
    value = loss(model(inputs), inputs.sum(dim=1, keepdim=True), 1.0)
    value.backward()
    optimizer.step()
    print(f"step {step}/20 loss {value.item():.4f}", flush=True)
print("training done", flush=True)
