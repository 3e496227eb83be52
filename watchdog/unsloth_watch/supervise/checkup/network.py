"""Whether the hub's name can be resolved, in case that the job will ask it."""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Iterator

from unsloth_watch.capture.deadline import DeadlineError, within
from unsloth_watch.model.checkup import Finding, Level
from unsloth_watch.supervise.checkup.scene import Scene
from unsloth_watch.supervise.checkup.variables import is_offline

_RESOLVE_S = 5.0
"""The resolver's own first timeout: a library would have waited for at least as long."""


def check_network(scene: Scene) -> Iterator[Finding]:
    """Yield how the job stands to the hub; nothing but a name is asked of the network."""
    if "huggingface_hub" not in scene.versions:
        return
    if is_offline(scene):
        yield Finding("network", "hub", Level.FINE, "offline: only what is in the cache is used", source="environment")
        return
    proxy = next((name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if scene.environment.get(name)), None)
    if proxy is not None:
        yield Finding("network", "hub", Level.FINE, f"through a proxy; names are resolved there ({proxy})", source="environment")
        return
    endpoint = scene.environment.get("HF_ENDPOINT", "https://huggingface.co")
    host = urllib.parse.urlsplit(endpoint).hostname or endpoint
    try:
        within(_RESOLVE_S, socket.getaddrinfo, host, 443)
    except (OSError, DeadlineError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield Finding(
            "network", "hub", Level.WARNING, f"{host} cannot be resolved: {reason}",
            "every call to the hub waits for its timeouts, again and again",
            "mend the network, or set HF_HUB_OFFLINE=1 if all is in the cache",
            "HF_ENDPOINT" if "HF_ENDPOINT" in scene.environment else "default",
        )  # fmt: skip
    else:
        yield Finding("network", "hub", Level.FINE, f"{host} is resolved")
