"""A tiny fine-tune that goes through Unsloth's real compile cache.

    python scripts/train.py            from the directory above: hangs with unsloth_zoo 2025.3.1 (unslothai/unsloth#1898)
    PYTHONPATH=. python scripts/train.py                         trains

``create_new_function`` of 2025.3.1 writes ``unsloth_compiled_cache/<name>.py`` into the current directory and imports it as a
package until that works. ``python scripts/train.py`` puts ``scripts`` on the import path and not the current directory, so it never
works. Runs on a CPU: the GPU that the library asks about is answered for below.
"""

from __future__ import annotations

import argparse
import os
import sys

# What `import unsloth` would have set; the real package needs a GPU.
os.environ.setdefault("UNSLOTH_IS_PRESENT", "1")
os.environ.setdefault("UNSLOTH_ALLOW_CPU", "1")
# The stand-in for nvidia-smi lies beside the environment's python.
os.environ["PATH"] = os.path.join(sys.prefix, "bin") + os.pathsep + os.environ.get("PATH", "")

import torch

torch.cuda.get_device_capability = lambda *_: (8, 0)

from unsloth_zoo.compiler import create_new_function  # noqa: E402 - the stand-in has to be there at import

SOURCE = """
def scaled_mse(prediction, target, scale):
    return F.mse_loss(prediction, target) * scale
""".lstrip()


def train(steps: int) -> None:
    """Fit a line with two layers, with a loss that was compiled into the cache."""
    print("preparing the compiled loss", flush=True)
    loss_module = create_new_function("scaled_mse", SOURCE, "torch.nn", [])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs = torch.randn(64, 4)
    targets = inputs.sum(dim=1, keepdim=True)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = loss_module.scaled_mse(model(inputs), targets, 1.0)
        loss.backward()
        optimizer.step()
        print(f"step {step}/{steps} loss {loss.item():.4f}", flush=True)
    print("training done", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    train(parser.parse_args().steps)
