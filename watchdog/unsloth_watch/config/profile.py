"""Profiles: named sets of settings for common situations. A profile only moves defaults; everything else overrides it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PROFILES: Mapping[str, Mapping[str, object]] = {
    # Somebody is at the screen and wants to know soon; nothing is killed for being slow.
    "interactive": {"stall-timeout": "60s", "on-hang": "report"},
    # Nobody looks until the morning: be patient, and never give up for one bad hour.
    "overnight": {"stall-timeout": "10m", "busy-timeout": "2h", "max-restarts": 10, "restart-on": "hang,crash"},
    # A test run in CI: short jobs, no terminal, no second chance.
    "ci": {"stall-timeout": "60s", "busy-timeout": "10m", "on-hang": "stop", "stdin": "null"},
}
