"""Rules for waits that end outside of the job's own code, on captures of real programs and on a recording of a real GPU."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from diagnose.recordedcases import HUNG, case_of, replace
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.diagnose.gpustall import GpuStall
from unsloth_watch.diagnose.memorythrash import MemoryThrash
from unsloth_watch.diagnose.networkstall import NetworkStall
from unsloth_watch.diagnose.pollloop import PollLoop
from unsloth_watch.diagnose.stalelock import StaleLockFile
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import DeviceEvidence, Evidence, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import ConnectionSample, GpuSample, Look, Sample
from zoo_reading import PLACE, read_program

pytestmark = pytest.mark.quick

DATA = Path(__file__).resolve().parents[1] / "data"
EXPECTED = [
    ("urlopen_silent", Status.ESTABLISHED, "fetch"),
    ("requests_half", Status.ESTABLISHED, "fetch"),
    ("hub_half", Status.ESTABLISHED, "127.0.0.1"),
    ("hub_silent", Status.ESTABLISHED, "127.0.0.1"),
    ("noise_append", Status.ESTABLISHED, "127.0.0.1"),
    ("poll_path", Status.SUPPORTED, "wait_for_main_rank"),
    ("poll_port", Status.SUPPORTED, "wait_for_server"),
    ("retry_503", Status.SUPPORTED, "push_to_hub"),
    ("missing_directory", Status.SUPPORTED, "wait_for_mount"),
    ("import_retry", Status.SUPPORTED, "create_new_function"),
    ("lockfile_loop", Status.SUPPORTED, "cache.lck"),
    ("noise_spinner", Status.SUPPORTED, "build.lock"),
    ("softfilelock_stale", Status.SUPPORTED, "dataset.lock"),
    ("file_baton", Status.SUPPORTED, "/lock"),
    ("cpp_extension_lock", Status.SUPPORTED, "/lock"),
    ("filelock_outside", Status.ESTABLISHED, "model.lock"),
    ("inductor_lock", Status.ESTABLISHED, "inductor.lock"),
    ("fcntl_outside", Status.ESTABLISHED, "index.lock"),
    ("sqlite_outside", Status.ESTABLISHED, "trials.db"),
    ("gloo_wrong_master", Status.ESTABLISHED, "127.0.0.1"),
    ("busy_silent", Status.SUPPORTED, "split"),
    ("busy_steps", Status.SUPPORTED, "pack"),
    ("regex", Status.SUPPORTED, "clean"),
    ("native_spin", Status.SUPPORTED, "wait_for_kernel"),
    ("native_spin_gil", Status.SUPPORTED, "wait_for_kernel"),
    ("input_pipe", Status.ESTABLISHED, "main"),
    ("input_tty", Status.ESTABLISHED, "/dev/pts/"),
    ("getpass_tty", Status.ESTABLISHED, "/dev/tty"),
    ("child_prompt", Status.ESTABLISHED, "bash"),
    ("wandb_prompt", Status.ESTABLISHED, "prompt_choice"),
    ("ttin", Status.ESTABLISHED, "/dev/tty"),
]
GREEDY = (
    "urlopen_silent",
    "hub_half",
    "poll_path",
    "poll_port",
    "retry_503",
    "lockfile_loop",
    "softfilelock_stale",
    "sqlite_outside",
)


def zoo(name: str) -> Case:
    return case_of(f"zoo-hang_{name}", HUNG)


def change_main(case: Case, **changes: object) -> Case:
    """Return a case whose command's main thread is changed."""
    root = case.processes[0]
    threads = tuple(msgspec.structs.replace(thread, **changes) if thread.is_main else thread for thread in root.threads)
    return replace(case, processes=(msgspec.structs.replace(root, threads=threads), *case.processes[1:]))


def all_names(diagnosis: Diagnosis) -> str:
    return f"{diagnosis.culprit} {diagnosis.summary}"


@pytest.mark.parametrize(("name", "status", "culprit"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_a_recorded_hang_is_explained_as_its_head_says(name: str, status: Status, culprit: str):
    diagnosis = diagnose(zoo(name))
    assert diagnosis.cause in read_program(PLACE / f"hang_{name}.py").causes
    assert diagnosis.status is status
    assert culprit in str(diagnosis.culprit)
    assert diagnosis.refuted_by
    assert diagnosis.remedies
    assert not [text for text in diagnosis.alternatives if "the rule itself failed" in text]


@pytest.mark.parametrize("name", GREEDY)
def test_the_same_picture_in_a_job_that_nobody_doubts_is_a_hypothesis_at_most(name: str):
    diagnosis = diagnose(msgspec.structs.replace(zoo(name), verdict=None))
    assert diagnosis.status in {Status.HYPOTHESIS, Status.UNKNOWN} or diagnosis.cause == "stale-lock-file"


def test_bytes_that_still_come_refute_a_network_stall():
    case = zoo("urlopen_silent")
    inode = next(int(item.target[8:-1]) for item in case.processes[0].descriptors or () if item.connection is not None)

    def heard(at: float, received: int) -> Sample:
        return Sample(at, 0.0, (), connections=(ConnectionSample(inode, "127.0.0.1:1", received, 0),))

    still = msgspec.structs.replace(case, samples=(heard(0, 500), heard(9, 500)))
    moving = msgspec.structs.replace(case, samples=(heard(0, 500), heard(9, 50_000)))
    stalled = NetworkStall().judge(still)
    assert stalled is not None
    assert any("0 bytes went over it in 9 s" in item.statement for item in stalled.evidence)
    assert NetworkStall().judge(moving) is None


def test_an_unread_answer_is_no_silence_of_the_network():
    case = zoo("urlopen_silent")
    root = case.processes[0]
    unread = tuple(
        msgspec.structs.replace(item, connection=msgspec.structs.replace(item.connection, unread_bytes=9))
        if item.connection
        else item
        for item in root.descriptors or ()
    )
    assert NetworkStall().judge(replace(case, processes=(msgspec.structs.replace(root, descriptors=unread),))) is None


def test_a_peer_inside_the_job_is_not_blamed_on_the_network():
    case = zoo("urlopen_silent")
    root = case.processes[0]
    own = tuple(
        msgspec.structs.replace(item, connection=msgspec.structs.replace(item.connection, peer_pid=root.ref.pid))
        if item.connection
        else item
        for item in root.descriptors or ()
    )
    assert NetworkStall().judge(replace(case, processes=(msgspec.structs.replace(root, descriptors=own),))) is None


@pytest.mark.parametrize(
    ("state", "call", "words"),
    [
        ("SYN_SENT", "connect", "does not answer the request for a connection"),
        ("ESTABLISHED", "sendto", "takes no more data"),
        ("ESTABLISHED", "recvfrom", "sends nothing"),
    ],
)
def test_the_state_of_the_connection_says_what_does_not_come(state: str, call: str, words: str):
    case = change_main(zoo("urlopen_silent"), call=call)
    root = case.processes[0]
    changed = tuple(
        msgspec.structs.replace(item, connection=msgspec.structs.replace(item.connection, state=state)) if item.connection else item
        for item in root.descriptors or ()
    )
    diagnosis = diagnose(replace(case, processes=(msgspec.structs.replace(root, descriptors=changed),)))
    assert diagnosis.cause == "network-stall"
    assert words in diagnosis.summary


def test_a_silent_name_server_is_called_one():
    case = change_main(zoo("urlopen_silent"), call="poll", wait="polls fd 3 → socket:[1], timeout 5 s")
    root = case.processes[0]
    changed = tuple(
        msgspec.structs.replace(item, connection=msgspec.structs.replace(item.connection, kind="udp", remote="10.0.0.2:53"))
        if item.connection
        else item
        for item in root.descriptors or ()
    )
    diagnosis = NetworkStall().judge(replace(case, processes=(msgspec.structs.replace(root, descriptors=changed),)))
    assert diagnosis is not None
    assert "the name server 10.0.0.2:53" in diagnosis.summary


def test_a_short_timeout_makes_a_wait_a_step_of_a_loop_and_no_stall():
    case = change_main(zoo("hub_half"), wait="polls fd 5 → socket:[1], timeout 10 s")
    lasting = NetworkStall().judge(case)
    passing = NetworkStall().judge(msgspec.structs.replace(case, samples=()))
    assert passing is not None
    assert passing.status is Status.HYPOTHESIS
    # One and the same connection was silent in all samples: the loop only waits for it.
    assert lasting is not None
    assert lasting.status is Status.SUPPORTED


def test_the_half_file_of_a_download_is_in_the_evidence():
    statements = [item.statement for item in diagnose(zoo("hub_half")).evidence]
    assert any(".incomplete" in statement and "not finished" in statement for statement in statements)


def test_a_high_timeout_of_the_hub_is_taken_away():
    case = zoo("hub_half")
    root = msgspec.structs.replace(case.processes[0], environment={"HF_HUB_DOWNLOAD_TIMEOUT": "86400"})
    remedies = {
        remedy.id: remedy for remedy in diagnose(replace(case, processes=(root,), versions={"huggingface_hub": "1.33.0"})).remedies
    }
    assert remedies["hub-timeouts"].environment == {"HF_HUB_DOWNLOAD_TIMEOUT": None}
    assert "without-hf-transfer" not in remedies
    old = diagnose(replace(case, processes=(root,), versions={"huggingface_hub": "0.36.0"}))
    assert "without-hf-transfer" in {remedy.id for remedy in old.remedies}


def test_a_poll_loop_names_its_condition_from_the_source():
    assert "`while not path.exists()`" in diagnose(zoo("poll_path")).summary


def test_a_poll_loop_names_what_it_opened_for_a_moment():
    case = zoo("poll_path")
    root = msgspec.structs.replace(case.processes[0], glimpses=("/data/rank0.done",))
    diagnosis = PollLoop().judge(replace(case, processes=(root,)))
    assert diagnosis is not None
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.path == "/data/rank0.done"


def test_one_look_outside_of_the_loop_refutes_it():
    case = zoo("poll_path")
    elsewhere = Look(case.processes[0].ref, "00000000", ("train (/home/user/job/train.py:3)",), False)
    assert PollLoop().judge(msgspec.structs.replace(case, looks=(*case.looks, elsewhere))) is None


def test_one_long_sleep_is_no_poll_loop():
    assert PollLoop().judge(case_of("sleep")) is None


def test_a_child_that_ended_unnoticed_is_told_with_its_status():
    case = zoo("poll_child_log")
    diagnosis = PollLoop().judge(case)
    assert diagnosis is not None
    assert any("has ended with status 1" in item.statement for item in diagnosis.evidence)


def test_a_lock_file_that_somebody_has_open_is_not_stale():
    case = zoo("lockfile_loop")
    held = tuple(msgspec.structs.replace(file, openers=(4711,)) for file in case.evidence.lock_files)
    assert held
    assert StaleLockFile().judge(replace(case, lock_files=held)) is None
    assert diagnose(replace(case, lock_files=held)).cause == "poll-loop"


def test_two_lock_files_without_an_owner_are_a_hypothesis():
    case = zoo("lockfile_loop")
    other = msgspec.structs.replace(case.evidence.lock_files[0], path="/home/user/job/other.lock")
    diagnosis = StaleLockFile().judge(replace(case, lock_files=(*case.evidence.lock_files, other)))
    assert diagnosis is not None
    assert diagnosis.status is Status.HYPOTHESIS


def test_the_lock_file_is_moved_aside_by_the_remedy():
    remedies = diagnose(zoo("lockfile_loop")).remedies
    assert [remedy.quarantine for remedy in remedies if remedy.quarantine] == [(zoo("lockfile_loop").evidence.lock_files[0].path,)]


def test_a_soft_lock_that_was_opened_by_others_too_is_not_stale():
    case = zoo("softfilelock_stale")
    held = tuple(msgspec.structs.replace(file, openers=(4711,)) for file in case.evidence.lock_files)
    assert StaleLockFile().judge(replace(case, lock_files=held)) is None


def test_a_stop_by_the_terminal_is_a_question_and_any_other_stop_is_a_stop():
    case = zoo("ttin")
    assert "SIGTTIN" in diagnose(case).summary
    front = tuple(msgspec.structs.replace(process, is_background=False) for process in case.processes)
    assert diagnose(replace(case, processes=front)).cause == "process-stopped"


def test_the_question_itself_is_quoted():
    assert "Overwrite" in diagnose(zoo("input_tty")).summary


def test_a_file_system_without_an_answer_is_named_with_path_and_mount():
    diagnosis = diagnose(case_of("fuse-stalled", HUNG))
    assert (diagnosis.cause, diagnosis.status) == ("filesystem-stall", Status.ESTABLISHED)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.path == "/home/user/job/models/weights.bin"
    assert diagnosis.culprit.peer == "fuse.stalled from stalled-server"
    assert "load_weights" in (diagnosis.culprit.frame or "")
    assert diagnose(case_of("fuse-stalled")).status is Status.HYPOTHESIS


@pytest.mark.parametrize(
    ("channel", "who"),
    [
        ("rpc_wait_bit_killable", "the NFS server"),
        ("percpu_rwsem_wait", "froze"),
        ("ptlrpc_set_wait", "Lustre"),
        ("wait_for_response", "CIFS"),
        ("p9_client_rpc", "9P"),
    ],
)
def test_the_kernel_function_says_whose_answer_is_missing(channel: str, who: str):
    diagnosis = diagnose(change_main(case_of("fuse-stalled", HUNG), state="D", wait_channel=channel))
    assert diagnosis.cause == "filesystem-stall"
    assert who in diagnosis.summary


def test_one_wait_for_a_disk_is_a_hypothesis_and_a_lasting_one_is_supported():
    case = change_main(case_of("fuse-stalled", HUNG), state="D", wait_channel="folio_wait_bit_common")
    ref = case.processes[0].ref
    assert diagnose(case).status is Status.HYPOTHESIS
    samples = tuple(Sample(at, 0.0, (sample_of(ref, state="D"),)) for at in (1.0, 2.0, 3.0))
    diagnosis = diagnose(msgspec.structs.replace(case, samples=samples))
    assert (diagnosis.cause, diagnosis.status) == ("filesystem-stall", Status.SUPPORTED)


def sample_of(ref: ProcessRef, *, state: str = "R", user_s: float = 0.0, kernel_s: float = 0.0, majflt: int = 0) -> ProcessSample:
    return ProcessSample(ref, 1, "python", state, user_s, kernel_s, 0.0, 0, majflt, 0, 1, 1 << 20, {state: 1})


def thrashing(host: dict[str, str], *, faults: int, user_s: float, kernel_s: float) -> Case:
    """A job over four seconds; the rates of the real one were 13,000 faults a second, 0.05 s user and 1.22 s kernel time."""
    case = case_of("spin", HUNG)
    ref = case.processes[0].ref
    samples = (
        Sample(0.0, 0.0, (sample_of(ref),)),
        Sample(4.0, 4.0, (sample_of(ref, user_s=user_s, kernel_s=kernel_s, majflt=faults),)),
    )
    return msgspec.structs.replace(replace(case, host=host), samples=samples)


FULL = {"cgroup_memory_used": "50167808", "cgroup_memory_limit": "50331648"}


def test_faults_and_kernel_time_in_a_full_control_group_are_a_shortage_of_memory():
    diagnosis = diagnose(thrashing(FULL, faults=51917, user_s=0.05, kernel_s=1.22))
    assert (diagnosis.cause, diagnosis.status) == ("memory-thrash", Status.SUPPORTED)
    pressed = diagnose(
        thrashing({**FULL, "pressure_memory": "avg10=60.00 avg60=1 avg300=0 total=1"}, faults=51917, user_s=0.05, kernel_s=1.22)
    )
    assert pressed.status is Status.ESTABLISHED


@pytest.mark.parametrize(
    ("host", "faults", "user_s", "kernel_s"),
    [
        ({}, 51917, 0.05, 1.22),  # many faults and no shortage anywhere: a mapped model is being loaded
        (FULL, 0, 3.9, 0.1),  # a full group of page cache and a program that computes
    ],
)
def test_one_sign_alone_is_no_shortage(host: dict[str, str], faults: int, user_s: float, kernel_s: float):
    assert MemoryThrash().judge(thrashing(host, faults=faults, user_s=user_s, kernel_s=kernel_s)) is None


def gpu_samples(name: str) -> tuple[Sample, ...]:
    rows = [json.loads(line) for line in (DATA / "gpu" / f"h100-{name}.jsonl").read_text().splitlines()][-8:]
    return tuple(
        Sample(
            row["t"],
            0.0,
            (),
            gpus=(
                GpuSample(
                    0,
                    "GPU-1",
                    utilization=row["util"],
                    tensor=row["any_tensor_util"],
                    dram=row["dram_bw_util"],
                    pcie_rx=1e6 * row["pcie_rx_per_sec"],
                    pcie_tx=1e6 * row["pcie_tx_per_sec"],
                    own_memory_bytes=1 << 30,
                ),
            ),
        )
        for row in rows
    )


def h100(capture: str, run: str) -> Case:
    """A real capture of an Unsloth fine-tune on an H100, with the last samples of the first attempt of a run."""
    evidence = msgspec.json.decode(gzip.decompress((DATA / "gpu" / "captures" / f"{capture}.json.gz").read_bytes()), type=Evidence)
    with gzip.open(DATA / "gpu" / "runs" / f"{run}.jsonl.gz") as file:
        samples = [msgspec.json.decode(line, type=Sample) for line in file.read().splitlines()]
    first = samples[0].processes[0].ref if samples[0].processes else None
    attempt = [sample for sample in samples if any(process.ref == first for process in sample.processes or ())]
    return Case(evidence, HUNG, samples=tuple(attempt[-10:]))


def test_a_real_fine_tune_behind_a_spinning_kernel_is_established():
    diagnosis = diagnose(h100("spin", "spin"))
    assert (diagnosis.cause, diagnosis.status) == ("gpu-stall", Status.ESTABLISHED)
    assert "hang (" in (diagnosis.culprit.frame or "") if diagnosis.culprit else False
    assert any("100 % busy" in item.statement for item in diagnosis.evidence)


def test_the_same_stack_with_a_device_that_works_is_a_hypothesis():
    diagnosis = GpuStall().judge(h100("spin", "healthy"))
    assert diagnosis is not None
    assert diagnosis.status is Status.HYPOTHESIS


@pytest.mark.parametrize("name", ["busy", "lock"])
def test_a_real_hang_with_an_idle_device_is_not_blamed_on_it(name: str):
    assert GpuStall().judge(h100(name, name)) is None


def synchronising(*frames: Frame, environment: dict[str, str] | None = None) -> Case:
    own = Frame("training_step", "/home/user/job/train.py", 88)
    thread = ThreadEvidence(7, "MainThread", is_main=True, frames=(*frames, own), state="R")
    process = ProcessEvidence(ProcessRef(7, 1), 1, threads=(thread,), stack_method="native", environment=environment or {})
    return Case(Evidence(0.0, 0.1, (process,), root=process.ref), HUNG)


NATIVE = Frame("cudaStreamSynchronize", "libcudart.so.12", 0, is_native=True)
PYTHON = Frame("synchronize", "/opt/envs/lib/python3.11/site-packages/torch/cuda/__init__.py", 900)


@pytest.mark.parametrize("frame", [NATIVE, PYTHON])
def test_a_wait_for_a_device_that_spins_without_traffic_is_established(frame: Frame):
    diagnosis = diagnose(msgspec.structs.replace(synchronising(frame), samples=gpu_samples("spin")))
    assert (diagnosis.cause, diagnosis.status) == ("gpu-stall", Status.ESTABLISHED)
    assert "training_step" in (diagnosis.culprit.frame or "") if diagnosis.culprit else False
    assert "GPU 0" in all_names(diagnosis)


def test_a_device_that_spins_is_supported_without_the_native_stack():
    diagnosis = GpuStall().judge(msgspec.structs.replace(synchronising(), samples=gpu_samples("spin")))
    assert diagnosis is not None
    assert diagnosis.status is Status.SUPPORTED


@pytest.mark.parametrize("name", ["healthy", "lock"])
def test_a_device_with_traffic_or_without_work_is_no_stall(name: str):
    assert GpuStall().judge(msgspec.structs.replace(synchronising(), samples=gpu_samples(name))) is None
    waiting = GpuStall().judge(msgspec.structs.replace(synchronising(NATIVE), samples=gpu_samples(name)))
    assert waiting is not None
    assert waiting.status is Status.HYPOTHESIS


def test_a_spinning_device_of_one_rank_of_several_may_be_a_collective():
    case = synchronising(NATIVE, environment={"WORLD_SIZE": "8"})
    diagnosis = GpuStall().judge(msgspec.structs.replace(case, samples=gpu_samples("spin")))
    assert diagnosis is not None
    assert diagnosis.status is Status.HYPOTHESIS


def test_a_fault_from_before_the_job_or_of_another_card_explains_nothing():
    case = synchronising(NATIVE)
    process = msgspec.structs.replace(case.evidence.processes[0], ref=ProcessRef(7, 100_000))  # 1,000 s after the boot
    old = "[900.0] NVRM: Xid (PCI:0000:4b:00): 79, pid=1, GPU has fallen off the bus."
    old_case = replace(case, processes=(process,), root=process.ref, kernel_log=(old,))
    assert "Xid" not in diagnose(old_case).summary
    samples = gpu_samples("spin")
    uuid = next(gpu.uuid for sample in samples for gpu in sample.gpus or () if gpu.is_ours)
    own = DeviceEvidence(index=0, uuid=uuid, facts={"bus": "00000000:1A:00.0"})
    for bus, is_told in (("4b", False), ("1a", True)):
        line = f"[1200.0] NVRM: Xid (PCI:0000:{bus}:00): 79, pid=1, GPU has fallen off the bus."
        told = replace(old_case, kernel_log=(line,), devices=(own,))
        assert ("Xid 79" in diagnose(msgspec.structs.replace(told, samples=samples)).summary) is is_told


def test_a_lost_device_is_established_by_its_fault():
    line = "[10.0] NVRM: Xid (PCI:0000:4b:00): 79, pid=7, GPU has fallen off the bus."
    diagnosis = diagnose(replace(synchronising(NATIVE), kernel_log=(line,)))
    assert (diagnosis.cause, diagnosis.status) == ("gpu-stall", Status.ESTABLISHED)
    assert "Xid 79" in diagnosis.summary
    assert diagnosis.remedies[0].kind == "advice"
