"""The main thread waits for an event that a signal from outside sets, as SLURM and preemption hooks do."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import os
import signal
import threading

import zoo

go_on = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: go_on.set())
zoo.train(steps=3)
waker = zoo.ask_waker("signal", os.getpid(), int(signal.SIGUSR1))
go_on.wait()
zoo.train(steps=3, first=4)
zoo.finish()
