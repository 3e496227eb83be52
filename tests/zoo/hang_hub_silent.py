"""huggingface_hub asks a server that accepts the connection and never answers; the timeout was set high."""

# /// zoo
# expect = "hang"
# causes = ["network-stall"]
# culprit = ["127.0.0.1", "hf_hub_download", "get_hf_file_metadata"]
# provable = false
# needs = ["huggingface_hub"]
# stdin = "null"
# cure = "shutdown"
# timeouts = "stall"
# outside = ["serve", "silent", "port"]
# ///

from __future__ import annotations

import os

import zoo

os.environ["HF_HUB_ETAG_TIMEOUT"] = os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = "86400"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = str(zoo.directory() / "home")
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{zoo.port('silent')}"

from huggingface_hub import hf_hub_download


def main():
    zoo.warm_up()
    zoo.say_hang()
    hf_hub_download("zoo/tiny-llama", "config.json", etag_timeout=86400)


main()
