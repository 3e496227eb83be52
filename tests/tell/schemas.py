"""The packaged JSON Schemas, by name."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def load_schema(name: str) -> dict[str, Any]:
    text = resources.files("unsloth_watch.tell").joinpath("schemas", f"{name}.json").read_text("utf-8")
    return json.loads(text)  # type: ignore[no-any-return]
