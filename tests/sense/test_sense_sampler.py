"""All senses together, and each for itself."""

from __future__ import annotations

import os

import msgspec
import pytest

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import GpuSample, Look, OutputSample, Sample
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.gpu import GpuReader
from unsloth_watch.sense.output import OutputReader
from unsloth_watch.sense.procfs import ProcessReader
from unsloth_watch.sense.sampler import RECOVERED, Sampler, suspended_s
from unsloth_watch.sense.tree import ProcessTree

GUARDIAN = "import subprocess, sys\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"


class Tree:
    """A tree that is told its members, or its fault."""

    def __init__(self):
        self.refs = ()
        self.error = None

    def members(self, *, can_wait=False):
        if self.error is not None:
            raise self.error
        return self.refs

    def close(self):
        pass


class Failing:
    """Stands for a sense of any kind; raises what it is told to."""

    def __init__(self, answer):
        self.answer = answer
        self.error = None
        self.why = None
        self.xids = ()

    def __call__(self, *_):
        if self.error is not None:
            raise self.error
        return self.answer

    read = read_all = latest = __call__

    def gpu_knowledge(self):
        return {}

    def sockets(self):
        return {}

    def watch(self, pids):
        pass

    def take_xids(self):
        taken, self.xids = self.xids, ()
        return taken

    def close(self):
        pass


def no_gpu():
    return GpuReader(is_present=lambda: False)


def test_a_real_job_is_sampled_whole_and_survives_json(start):
    guardian = start(GUARDIAN)
    tree, output = ProcessTree((guardian.pid,)), OutputReader()
    sampler = Sampler(tree, lambda: output.feed(b"step=3\n", 7), FileReader(), no_gpu(), 1.0)
    look = Look(ProcessRef(1, 1), "00000000", ("f (a.py:1)",), False)
    sample = sampler.sample(10.0, 1e9, (look,), heartbeats=4)
    assert [process.ref.pid for process in sample.processes] == [int(guardian.said)]
    assert sample.processes[0].has_gpu is False
    assert sample.output.readings[0].value == 3
    assert (sample.gpus, sample.looks, sample.heartbeats, sample.degraded, sample.gap_s) == ((), (look,), 4, (), 0.0)
    assert sample.files is not None
    assert sampler.take_degradations() == []
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Sample) == sample
    sampler.close()


@pytest.mark.quick
@pytest.mark.parametrize("broken", ["processes", "files", "output", "gpu"])
def test_a_sense_that_fails_degrades_itself_alone_and_is_told_once(broken):
    tree = Tree()
    senses = {"processes": Failing(()), "files": Failing(()), "output": Failing(OutputSample(0, 0)), "gpu": Failing(())}
    sampler = Sampler(tree, senses["output"], senses["files"], senses["gpu"], 1.0, processes=senses["processes"])
    fields = {"processes": "processes", "files": "files", "output": "output", "gpu": "gpus"}
    whole = sampler.sample(0.0, 0.0)
    assert None not in [getattr(whole, field) for field in fields.values()]
    senses[broken].error = OSError(5, "broken")
    for at in (1.0, 2.0):
        sample = sampler.sample(at, 0.0)
        assert sample.degraded == (broken,)
        assert [name for name, field in fields.items() if getattr(sample, field) is None] == [broken]
    assert sampler.take_degradations() == [(broken, "OSError: [Errno 5] broken")]
    senses[broken].error = ValueError("otherwise")
    sampler.sample(3.0, 0.0)
    assert sampler.take_degradations() == [(broken, "ValueError: otherwise")]
    senses[broken].error = None
    assert sampler.sample(4.0, 0.0).degraded == ()
    assert sampler.take_degradations() == [(broken, RECOVERED)]
    assert sampler.take_degradations() == []


@pytest.mark.quick
def test_without_a_tree_processes_and_files_are_unknown_and_the_rest_goes_on():
    tree = Tree()
    tree.error = PermissionError(13, "no /proc")
    files = Failing(())
    sampler = Sampler(tree, Failing(OutputSample(0, 0)), files, no_gpu(), 1.0)
    sample = sampler.sample(0.0, 0.0)
    assert (sample.processes, sample.files, sample.degraded) == (None, None, ("processes",))
    assert sample.output is not None
    assert sample.gpus == ()


@pytest.mark.quick
def test_what_the_gpu_sense_cannot_know_is_degraded_with_its_reason():
    gpu = Failing(None)
    sampler = Sampler(Tree(), None, None, gpu, 1.0)
    assert sampler.sample(0.0, 0.0).degraded == ()
    gpu.why = "NVML is blocked"
    assert sampler.sample(1.0, 0.0).degraded == ("gpu",)
    assert sampler.take_degradations() == [("gpu", "NVML is blocked")]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("ticks", "sleeps", "gaps"),
    [
        ([0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 1, 4, 5], [0, 0, 0, 0], [0, 0, 0, 0]),  # three intervals late is a loaded machine
        ([0, 1, 61, 62], [0, 0, 0, 0], [0, 0, 59, 0]),  # we were stopped
        ([0, 1, 2, 3], [50, 50, 3650, 3650], [0, 0, 3600, 0]),  # the machine slept
        ([0, 1, 31, 32], [0, 0, 100, 100], [0, 0, 129, 0]),  # both
        ([0, 1, 2, 3], [0, 1e-5, 2e-5, 3e-5], [0, 0, 0, 0]),  # two clocks are never read at once
    ],
)
def test_time_in_which_nothing_ran_is_a_gap(ticks, sleeps, gaps):
    asleep = iter(sleeps)
    sampler = Sampler(Tree(), None, None, None, 1.0, suspended=lambda: next(asleep))
    assert [sampler.sample(at, 0.0).gap_s for at in ticks] == gaps


@pytest.mark.quick
def test_a_fast_beat_that_misses_some_beats_is_no_gap():
    sampler = Sampler(Tree(), None, None, None, 0.125, suspended=lambda: 0.0)
    assert [sampler.sample(at, 0.0).gap_s for at in (0, 0.125, 1.125, 4.125)] == [0, 0, 0, 2.875]


@pytest.mark.quick
def test_the_clocks_of_this_machine_agree_while_it_is_awake():
    assert suspended_s() > -0.1
    assert abs(suspended_s() - suspended_s()) < 0.1


def test_closing_gives_every_descriptor_back(start):
    guardian = start(GUARDIAN)
    before = len(os.listdir("/proc/self/fd"))
    sampler = Sampler(ProcessTree((guardian.pid,)), None, FileReader(), None, 1.0, processes=ProcessReader())
    sampler.sample(0.0, 0.0)
    assert len(os.listdir("/proc/self/fd")) > before
    sampler.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fault_of_a_gpu_is_in_one_sample_and_is_told_even_where_the_device_is_lost():
    gpu = Failing((GpuSample(0, "GPU-1"), GpuSample(1, "GPU-2")))
    gpu.xids = ((1, "GPU-2", 31),)
    sampler = Sampler(Tree(), None, None, gpu, 1.0)
    assert [seen.xids for seen in sampler.sample(1.0, 0.0).gpus] == [(), (31,)]
    assert [seen.xids for seen in sampler.sample(2.0, 0.0).gpus] == [(), ()]
    gpu.answer, gpu.xids = None, ((0, "GPU-1", 79),)
    assert sampler.sample(3.0, 0.0).gpus is None
    assert sampler.take_xids() == [(1, "GPU-2", 31), (0, "GPU-1", 79)]
    assert sampler.take_xids() == []


def test_a_gpu_reading_is_not_called_old_for_the_time_in_which_we_did_not_run():
    gpu = Failing(())
    asked = []
    gpu.latest = lambda at, max_age_s: asked.append(max_age_s) or ()
    sampler = Sampler(Tree(), None, None, gpu, 1.0)
    for at in (1.0, 2.0, 62.0, 63.0):
        sampler.sample(at, 0.0)
    assert asked == [5.0, 5.0, 64.0, 5.0]
