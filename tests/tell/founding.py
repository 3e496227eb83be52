"""Two incidents as a supervisor would hand them to the report: the founding one with five processes, and one of 64 ranks."""

from __future__ import annotations

from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import CacheProbe, Descriptor, Evidence, FileLock, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import FileSample, GpuSample, OutputSample, Reading, Sample
from unsloth_watch.model.verdict import Progress, State, Tier, Verdict
from unsloth_watch.tell.incident import Incident, Previous, RemedyOutcome

SECRETS = {
    "HF_TOKEN": "hf_QwErTyUiOpAsDfGhJkLzXcVbNmQwErTy12",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "DB_PASSWORD": 'corréct "horse" \\battery',
}
EVIL = "<script>document.title='pwned'</script><img src=http://192.0.2.1/x.png onerror=alert(1)>"
WALL = 1_795_506_071.123
SITE = "/home/ana/venv/lib/python3.11/site-packages"


def frame(function: str, file: str, line: int, *, native: bool = False) -> Frame:
    return Frame(function, file, line, native)


LOAD = (
    frame("create_new_function", f"{SITE}/unsloth_zoo/compiler.py", 278),
    frame("unsloth_compile_transformers", f"{SITE}/unsloth_zoo/compiler.py", 1482),
    frame("from_pretrained", f"{SITE}/unsloth/models/loader.py", 412),
    frame("load_model", "/home/ana/sft/scripts/train.py", 31),
    frame("<module>", "/home/ana/sft/scripts/train.py", 88),
)
IDLE = (
    frame("futex_wait", "libpthread.so.0", 0, native=True),
    frame("wait", "/usr/lib/python3.11/threading.py", 327),
    frame("get", "/usr/lib/python3.11/queue.py", 171),
    frame("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py", 81),
    frame("run", "/usr/lib/python3.11/threading.py", 982),
)
MONITOR = (
    frame("wait", "/usr/lib/python3.11/threading.py", 331),
    frame("wait", "/usr/lib/python3.11/threading.py", 629),
    frame("run", f"{SITE}/tqdm/_monitor.py", 60),
)
WORKER = (
    frame("_recv", "/usr/lib/python3.11/multiprocessing/connection.py", 379),
    frame("_recv_bytes", "/usr/lib/python3.11/multiprocessing/connection.py", 414),
    frame("get", "/usr/lib/python3.11/multiprocessing/queues.py", 365),
    frame("worker", "/usr/lib/python3.11/multiprocessing/pool.py", 114),
)


def thread(
    tid: int, frames: tuple[Frame, ...], *, name: str = "MainThread", is_main: bool = True, **more: object
) -> ThreadEvidence:
    return ThreadEvidence(tid=tid, name=name, is_main=is_main, frames=frames, state="S", **more)  # type: ignore[arg-type]


def founding_samples(wall: float = WALL) -> tuple[Sample, ...]:
    samples = []
    for tick in range(400):
        at = 1000.0 + tick
        quiet = max(0, tick - 208)
        busy = tick - quiet
        process = ProcessSample(
            ref=ProcessRef(4242, 77),
            ppid=4241,
            comm="python",
            state="S",
            utime_s=0.9 * busy + 0.03 * quiet,
            stime_s=0.1 * busy + 0.005 * quiet,
            reaped_cpu_s=0.0,
            minflt=0,
            majflt=0,
            reaped_minflt=0,
            threads=14,
            rss_bytes=int(3e8 + 2.4e7 * busy),
            rchar=40_000_000 * busy + 12_000 * quiet,
            wchar=1000 * busy,
            read_bytes=20_000_000 * busy,
            write_bytes=0,
        )
        output = OutputSample(total_bytes=230 * busy, lines=busy, readings=(Reading("ab12cd34", "loss", float("nan")),))
        gpu = GpuSample(index=0, uuid="GPU-1", utilization=0.0, memory_bytes=int(6e9), power_w=71.0)
        samples.append(Sample(at=at, wall=wall - 400 + tick, processes=(process,), output=output, gpus=(gpu,)))
    return tuple(samples)


def founding_incident() -> Incident:
    """unsloth#1898: the compile cache cannot be imported, five processes, one of them shouting HTML."""
    root = ProcessEvidence(
        ref=ProcessRef(4242, 77),
        ppid=4241,
        command=("python", "scripts/train.py", "--token", SECRETS["HF_TOKEN"], "--note", EVIL),
        executable="/home/ana/venv/bin/python3.11",
        cwd="/home/ana/sft",
        environment={**SECRETS, "PYTHONPATH": "/home/ana/lib", "EDITOR": "vi"},
        state="S",
        threads=(
            thread(4242, LOAD, call="clock_nanosleep", wait="sleeps 10 ms"),
            *(thread(4250 + n, IDLE, name=f"ThreadPoolExecutor-0_{n}", is_main=False, call="futex") for n in range(4)),
            thread(4260, MONITOR, name="Thread-1 (tqdm)", is_main=False),
            *(thread(4270 + n, (), name=f"pt_autograd_{n}", is_main=False, wait_channel="futex_do_wait") for n in range(3)),
        ),
        python_version="3.11.7",
        stack_method="native",
    )
    workers = tuple(
        ProcessEvidence(
            ref=ProcessRef(4300 + n, 99),
            ppid=4242,
            command=("python", "-c", "from multiprocessing.spawn import spawn_main"),
            state="S",
            threads=(thread(4300 + n, WORKER, call="read", syscall_args=(5, 0, 4), wait="reads from fd 5 → pipe:[99]"),),
            descriptors=(Descriptor(5, "pipe:[99]", flags=0),),
            stack_method="native",
        )
        for n in range(4)
    )
    culprit = Culprit(kind="path", pid=4242, frame=str(LOAD[0]), path="/home/ana/sft/unsloth_compiled_cache")
    remedy = Remedy(
        id="import-path",
        why="unsloth_zoo 2025.3.1 imports its cache by name, and the job's import path does not hold the current directory.",
        kind="environment",
        prepend_path={"PYTHONPATH": "/home/ana/sft"},
        advice="Upgrade: pip install -U unsloth unsloth_zoo (2025.3.8 or newer does not have this loop).",
    )
    redirect = Remedy(
        id="redirect-compile-cache",
        why="A fresh cache outside the project.",
        kind="environment",
        environment={"UNSLOTH_COMPILE_LOCATION": "unsloth_watch_cache", "TORCHINDUCTOR_CACHE_DIR": None},
    )
    diagnosis = Diagnosis(
        cause="compile-cache-unusable",
        title="Unsloth waits for ever on a compile cache that it cannot import",
        summary="unsloth_zoo 2025.3.1 retries the import of unsloth_compiled_cache every 10 ms without end, because the current "
        "directory /home/ana/sft is not on the import path of `python scripts/train.py`.",
        status=Status.ESTABLISHED,
        confidence=0.97,
        culprit=culprit,
        evidence=(
            Statement("The main thread is in create_new_function (compiler.py:278) on each of 12 looks.", "py-spy --nonblocking"),
            Statement("unsloth_compiled_cache cannot be imported from the job's import path.", "import probe"),
            Statement("unsloth_zoo 2025.3.1 is installed; this version has the unbounded loop.", "dist-info"),
        ),
        refuted_by="the loop ends although nothing was changed",
        remedies=(remedy, redirect),
        alternatives=("poll-loop: the polled path is known, and it is the cache",),
        fingerprint="3f9a0c1d2e4b5a67",
    )
    verdict = Verdict(
        state=State.HUNG,
        at=1399.0,
        quiet_s=192.0,
        limit_s=180.0,
        last_progress=Progress(1207.0, Tier.DATA, "memory", "resident memory grew by 24 MB"),
        reasons=("12 looks in 120 s saw one closed set of 1 stack", "the I/O repeats itself: 180 reads a second of the same bytes"),
        is_proven=True,
        phase="load",
    )
    cache = CacheProbe(
        cache="unsloth-compiled",
        path="/home/ana/sft/unsloth_compiled_cache",
        origin="default",
        exists=True,
        is_directory=True,
        is_writable=True,
        is_importable=False,
        import_path=("/home/ana/sft/scripts", SITE),
        free_bytes=81_604_378_624,
        filesystem="ext4",
        files=12,
        problems=("not importable: /home/ana/sft is not on the import path",),
    )
    output = (
        "==((====))==  Unsloth 2025.3.1: Fast Llama patching.\n"
        "\x1b[32mLoading\x1b[0m checkpoint shards:   0%|   | 0/4\rLoading checkpoint shards: 100%|████| 4/4 [00:09<00:00]\n"
        f"login with {SECRETS['HF_TOKEN']} as ana\n{EVIL}\n``` ~~~~ | @everyone [x](http://evil.example)\n"
    )
    return Incident(
        run="20261124T074111Z-sft-3fa2",
        number=1,
        attempt=1,
        command=root.command or (),
        cwd="/home/ana/sft",
        wall=WALL,
        verdict=verdict,
        diagnosis=diagnosis,
        evidence=Evidence(
            at=1399.0,
            seconds=0.84,
            processes=(root, *workers),
            root=root.ref,
            caches=(cache,),
            versions={"unsloth": "2025.3.1", "unsloth_zoo": "2025.3.1", "torch": "2.6.0", "transformers": "4.49.0"},
            host={"kernel": "6.18.2", "memory": "62 GiB", "gpu": "NVIDIA H100 80GB HBM3, driver 570.124"},
        ),
        outcomes=(RemedyOutcome(remedy, applied=True, result="attempt 2 got past it in 4 s"),),
        actions=("evidence saved in 0.8 s", "ended with SIGTERM after 0.3 s", "started again as attempt 2"),
        samples=founding_samples(),
        suspected_at=1252.0,
        output_tail=output,
        environment={**SECRETS, "PYTHONPATH": "/home/ana/lib", "CUDA_VISIBLE_DEVICES": "0", "EDITOR": "vi", "HOME": "/home/ana"},
        previous=(Previous("20261123T101500Z-sft-11bc", 1, "2026-11-23T10:19:12.000Z", "compile-cache-unusable", "given up"),),
        versions={"unsloth-watch": "0.1.0"},
    )


def ranks_incident(count: int = 64) -> Incident:
    """A collective that one rank of 64 has not entered, since it waits for a file lock held outside the job."""
    wait = (
        frame("ncclGroupEnd", "libnccl.so.2", 0, native=True),
        frame("all_reduce", f"{SITE}/torch/distributed/distributed_c10d.py", 2501),
        frame("training_step", f"{SITE}/transformers/trainer.py", 3698),
        frame("<module>", "train.py", 12),
    )
    odd = (
        frame("acquire", f"{SITE}/filelock/_unix.py", 61),
        frame("load_dataset", f"{SITE}/datasets/load.py", 2062),
        frame("evaluate", f"{SITE}/transformers/trainer.py", 4102),
        frame("<module>", "train.py", 12),
    )
    launcher = ProcessEvidence(
        ref=ProcessRef(100, 5),
        ppid=1,
        command=("torchrun", "--nproc-per-node", str(count), "train.py"),
        state="S",
        threads=(
            thread(
                100, (frame("_wait", f"{SITE}/torch/distributed/elastic/agent/server/api.py", 870),), call="wait4", wait="any child"
            ),
        ),
    )
    ranks = tuple(
        ProcessEvidence(
            ref=ProcessRef(1000 + n, 9),
            ppid=100,
            command=("python", "-u", "train.py"),
            environment={"RANK": str(n), "LOCAL_RANK": str(n % 8)},
            state="S",
            threads=(
                thread(1000 + n, odd, call="flock", wait="file lock /nfs/hub/.locks/x.lock")
                if n == 7
                else thread(1000 + n, wait, call="futex", wait="a lock of its own"),
                thread(3000 + n, MONITOR, name="tqdm", is_main=False),
            ),
            stack_method="plain",
            missing=("native frames: py-spy was refused",) if n == 9 else (),
        )
        for n in range(count)
    )
    locks = (
        FileLock("FLOCK", "WRITE", 1007, "08:01", 42, path="/nfs/hub/.locks/x.lock", is_waiter=True, is_inside=True),
        FileLock("FLOCK", "WRITE", 555, "08:01", 42, path="/nfs/hub/.locks/x.lock", holder_command="python other.py"),
    )
    diagnosis = Diagnosis(
        cause="lock-held-elsewhere",
        title="Rank 7 waits for a file lock that another job holds",
        summary="63 ranks wait in all_reduce for rank 7, which waits for /nfs/hub/.locks/x.lock, held by PID 555 outside the job.",
        status=Status.SUPPORTED,
        confidence=0.85,
        culprit=Culprit(
            kind="lock", pid=1007, rank=7, frame=str(odd[0]), path="/nfs/hub/.locks/x.lock", peer="PID 555: python other.py"
        ),
        evidence=(Statement("/proc/locks has PID 1007 waiting and PID 555 holding.", "/proc/locks"),),
        fingerprint="aa",
    )
    verdict = Verdict(State.HUNG, 1399.0, 204.0, 180.0, None, ("no step for 204 s, cadence 2.1 s",), phase="eval")
    return Incident(
        run="20261124T080000Z-ranks-0001",
        number=2,
        attempt=3,
        command=("torchrun", "--nproc-per-node", str(count), "train.py"),
        cwd="/nfs/job",
        wall=WALL,
        verdict=verdict,
        diagnosis=diagnosis,
        evidence=Evidence(at=1399.0, seconds=2.2, processes=(launcher, *ranks), root=launcher.ref, locks=locks),
        samples=founding_samples(),
        output_tail="Evaluating:  10%|█ | 4/40\n",
        environment={"NCCL_DEBUG": "WARN"},
    )


FILE = FileSample(device=1, inode=2, path=f"/data/{SECRETS['HF_TOKEN']}/x.bin", offset=10, size=20, is_writer=False)
