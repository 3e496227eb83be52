"""A module starts a thread while it is imported and waits for it; the thread imports that module."""

# /// zoo
# expect = "hang"
# causes = ["import-deadlock"]
# culprit = ["plugin", "_find_and_load"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import sys

import zoo

PLUGIN = """
import threading
def load_settings():
    import settings
reader = threading.Thread(target=load_settings)
reader.start()
reader.join()
DEFAULT = 1
"""


def main():
    zoo.warm_up()
    place = zoo.directory() / "modules"
    place.mkdir()
    (place / "plugin.py").write_text(PLUGIN)
    (place / "settings.py").write_text("from plugin import DEFAULT\n")
    sys.path.insert(0, str(place))
    zoo.say_hang()
    import plugin

    print(plugin)


main()
