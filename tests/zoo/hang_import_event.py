"""A module waits for the event of a thread that imports it."""

# /// zoo
# expect = "hang"
# causes = ["import-deadlock"]
# culprit = ["module_x", "load"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import sys

import zoo

MODULE = """
import threading
done = threading.Event()
def load():
    from module_x import LATE
    done.set()
threading.Thread(target=load, daemon=True).start()
done.wait()
LATE = 1
"""


def main():
    zoo.warm_up()
    place = zoo.directory() / "modules"
    place.mkdir()
    (place / "module_x.py").write_text(MODULE)
    sys.path.insert(0, str(place))
    zoo.say_hang()
    import module_x

    print(module_x)


main()
