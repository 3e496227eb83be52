"""huggingface_hub downloads from a server that stalls in mid-file; the read timeout was set high against flaky nights."""

# /// zoo
# expect = "hang"
# causes = ["network-stall"]
# culprit = ["127.0.0.1", "http_get", "hf_hub_download"]
# provable = false
# needs = ["huggingface_hub"]
# stdin = "null"
# cure = "shutdown"
# timeouts = "stall"
# outside = ["serve", "half", "port"]
# ///

from __future__ import annotations

import os

import zoo

os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = "86400"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = str(zoo.directory() / "home")
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{zoo.port('half')}"

from huggingface_hub import hf_hub_download


def main():
    zoo.warm_up()
    zoo.say_hang()
    hf_hub_download("zoo/tiny-llama", "model.safetensors")


main()
