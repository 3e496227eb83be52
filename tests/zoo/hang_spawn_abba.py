"""Two locks in a spawned child."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "thread-deadlock"]
# culprit = ["left", "right"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing as mp
import threading

import zoo


def job():
    a, b = threading.Lock(), threading.Lock()
    m = threading.Barrier(2)

    def left():
        with a:
            m.wait()
            with b:
                pass

    def right():
        with b:
            m.wait()
            with a:
                pass

    threading.Thread(target=right).start()
    zoo.say_hang()
    left()


def main():
    zoo.warm_up()
    p = mp.get_context("spawn").Process(target=job)
    p.start()
    p.join()


if __name__ == "__main__":
    main()
