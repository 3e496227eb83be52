"""huggingface_hub downloads at 3 kB/s over a bad line; its bar is off."""

# /// zoo
# expect = "healthy"
# lives_by = "socket bytes"
# seconds = "3*S"
# needs = ["huggingface_hub"]
# stdin = "null"
# outside = ["serve", "trickle", "port"]
# ///

from __future__ import annotations

import os

import zoo

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = str(zoo.directory() / "home")
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{zoo.port('trickle')}"

from huggingface_hub import hf_hub_download

path = hf_hub_download("zoo/tiny-llama", "model.safetensors")
assert os.path.getsize(path) == 9000 * zoo.stall()
zoo.finish()
