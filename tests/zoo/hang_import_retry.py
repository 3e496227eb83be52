"""An unbounded import loop around a compile cache that is not on the path, as in unsloth_zoo 2025.3.1 (unsloth#1898)."""

# /// zoo
# expect = "hang"
# causes = ["compile-cache-unusable", "poll-loop"]
# culprit = ["create_new_function", "unsloth_compiled_cache"]
# provable = false
# needs = []
# stdin = "null"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import importlib
import os
import time

import zoo


def create_new_function(name, source):
    os.makedirs("unsloth_compiled_cache", exist_ok=True)
    with open(f"unsloth_compiled_cache/{name}.py", "w") as file:
        file.write(source)
    while True:
        try:
            return importlib.import_module(f"unsloth_compiled_cache.{name}")
        except Exception:
            time.sleep(0.01)


def main():
    os.chdir(zoo.directory())
    zoo.compute(1.5)
    zoo.leave_if_cured()
    print("Unsloth: Will patch your computer to enable 2x faster free finetuning.", flush=True)
    zoo.say_hang()
    create_new_function("tiny_forward", "def tiny_forward(x):\n    return x\n")
    zoo.finish()


main()
