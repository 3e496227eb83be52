"""The settings of one run: typed, frozen, each with the source that it came from.

On the launch path: imports nothing heavy, hence no dataclass.
"""

from __future__ import annotations

from unsloth_watch.config.option import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings:
    """Values of all options; see ``OPTIONS`` for meanings, units and defaults.

    Args:
        values: Typed values by field name; what is missing takes its default.
        sources: Where a value came from, by field name: ``--stall-timeout``, ``UNSLOTH_WATCH_GRACE``, ``file: key``,
            ``profile NAME``; absent for a default.
    """

    run_dir: str | None
    runs_dir: str | None
    name: str | None
    config: str | None
    profile: str | None
    stall_timeout: float
    busy_timeout: float
    grace: float
    interval: float
    on_hang: str
    restart_on: tuple[str, ...]
    max_restarts: int
    live_repair: bool
    stdin: str
    capture: str
    cache: str
    cache_prune: float | None
    locals: bool
    quiet: bool
    verbose: bool
    sources: Mapping[str, str]

    def __init__(self, values: Mapping[str, object], sources: Mapping[str, str]) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.field, values.get(option.field, option.default))
        object.__setattr__(self, "sources", dict(sources))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are frozen; {name} cannot change during a run")

    def describe(self) -> dict[str, dict[str, object]]:
        """Return ``{name: {value, source}}`` for records and ``-v``."""
        return {
            option.name: {"value": getattr(self, option.field), "source": self.sources.get(option.field, "default")}
            for option in OPTIONS
        }
