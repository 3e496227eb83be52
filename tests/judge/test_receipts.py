"""Data that nobody counts: who is found waiting for it, when its wakes make a stream, and what is no stream."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario import hung_at, process, reading, replay, sample
from unsloth_watch.judge.receipts import find_receivers
from unsloth_watch.judge.rules import Rules
from unsloth_watch.model.evidence import Connection, Descriptor, Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.receiver import Receiver, ReceiverSample
from unsloth_watch.model.sample import Look, Sample
from unsloth_watch.model.verdict import State

pytestmark = pytest.mark.quick

ROOT = ProcessRef(100, 1)
UNIX = Connection("unix", "socket:[7]", "socket:[8]", "ESTABLISHED")
UDP = Connection("udp", "127.0.0.1:53", "0.0.0.0:0", "UNCONNECTED")
TCP = Connection("tcp", "127.0.0.1:4000", "127.0.0.1:80", "ESTABLISHED")
SHORT = Rules(stall_s=10.0, busy_s=100.0)
LONG = Rules(stall_s=180.0, busy_s=1800.0)
TAKER = Receiver(ROOT, 100, "a UNIX socket", 45)
EPOLL = Receiver(ROOT, 100, "a UNIX socket", 281, False, True, 0.1)


def waiting(
    connection: Connection | None, call: str = "recvfrom", phrase: str = "receives from fd 3", *more: Descriptor
) -> Evidence:
    """A survey of one process whose main thread waits for a socket."""
    fds = (6, 3) if call == "epoll_wait" else (3,)
    thread = ThreadEvidence(
        100, "MainThread", is_main=True, state="S", call=call, wait=phrase, wait_fds=fds, syscall=45, syscall_args=(fds[0], 1, 2)
    )
    descriptor = Descriptor(fd=3, target="socket:[7]", connection=connection)
    return Evidence(0.0, 0.1, (ProcessEvidence(ROOT, 1, threads=(thread,), descriptors=(descriptor, *more)),), root=ROOT)


@pytest.mark.parametrize(
    ("connection", "source"), [(UNIX, "a UNIX socket"), (UDP, "a UDP socket"), (None, "a socket"), (TCP, None)]
)
def test_sockets_without_totals_are_uncounted_and_tcp_is_counted(connection: Connection | None, source: str | None) -> None:
    assert [one.source for one in find_receivers(waiting(connection)).values()] == ([source] if source else [])


def test_what_is_moved_by_read_and_write_is_counted_and_what_is_sent_is_not() -> None:
    calls = ("read", "write", "recvmsg", "sendto")
    assert [call for call in calls if find_receivers(waiting(UNIX, call, f"{call} on fd 3"))] == ["recvmsg", "sendto"]


def test_what_a_process_sends_to_itself_to_wake_its_own_loop_is_no_stream() -> None:
    own = Descriptor(fd=4, target="socket:[8]", connection=Connection("unix", "socket:[8]", "socket:[7]", "ESTABLISHED"))
    assert not find_receivers(waiting(UNIX, "epoll_wait", "epoll wait on fd 6 for fd 3, no timeout", own))
    assert find_receivers(waiting(UNIX, "epoll_wait", "epoll wait on fd 6 for fd 3, no timeout"))
    # Where not all processes were read, another may hold that end too.
    part = waiting(UNIX, "epoll_wait", "epoll wait on fd 6 for fd 3, no timeout", own)
    assert find_receivers(msgspec.structs.replace(part, missing=("PID 7",)))


def test_the_pair_of_a_loop_that_was_inherited_by_a_child_is_no_stream_where_tcp_is_waited_for() -> None:
    ends = tuple(
        Descriptor(
            fd=fd, target=f"socket:[{one}]", connection=Connection("unix", f"socket:[{one}]", f"socket:[{other}]", "ESTABLISHED")
        )
        for fd, one, other in ((4, 7, 8), (5, 8, 7))
    )

    def serving(connection: Connection) -> Evidence:
        survey = waiting(connection, "epoll_wait", "epoll wait on fd 6 for fd 3, 4, no timeout")
        [server] = survey.processes
        peer = msgspec.structs.replace(server.descriptors[0], target="socket:[9]")
        [thread] = server.threads
        thread = msgspec.structs.replace(thread, wait_fds=(6, 3, 4))
        server = msgspec.structs.replace(server, threads=(thread,), descriptors=(peer, *ends))
        child = ProcessEvidence(ProcessRef(101, 1), 100, descriptors=ends)
        return msgspec.structs.replace(survey, processes=(server, child))

    assert not find_receivers(serving(TCP))
    assert find_receivers(serving(Connection("unix", "socket:[9]", "socket:[10]", "ESTABLISHED")))


def test_the_longest_time_limit_that_a_thread_was_seen_with_stands() -> None:
    limits = []
    known = None
    for limit in ("timeout 0.05 s", "timeout 2 s", "timeout 0.1 s", "no timeout", "timeout 1 s"):
        known = find_receivers(waiting(UNIX, "epoll_wait", f"epoll wait on fd 6 for fd 3, {limit}"), known)
        [found] = known.values()
        limits.append(found.limit_s)
        assert (found.syscall, found.is_poll) == (45, True)
    assert limits == [0.05, 2.0, 2.0, None, None]


def job(rate: Callable[[float], float], receiver: Receiver = TAKER, reads: float = 0.0) -> Callable[[float], Sample]:
    """A job that does nothing but to wake so often a second, from the third second on, when it is first looked at."""

    def make(at: float) -> Sample:
        woken = sum(rate(float(second)) for second in range(round(at) + 1))
        seen = ReceiverSample(receiver, True, int(woken), int(reads * at))
        return sample(at, process(vctx=int(woken)), receivers=(seen,) if at >= 3 else ())

    return make


@pytest.mark.parametrize("rules", [SHORT, LONG])
@pytest.mark.parametrize("rate", [6.0, 20.0, 500.0])
def test_who_takes_such_data_all_the_time_lives_to_the_busy_timeout(rules: Rules, rate: float) -> None:
    found = hung_at(job(lambda _: rate), rules.busy_s + 10, rules)
    assert found is not None
    assert found >= rules.busy_s


@pytest.mark.parametrize("rules", [SHORT, LONG])
def test_a_stream_that_ends_is_silence_from_then_on_and_heartbeats_do_not_lengthen_it(rules: Rules) -> None:
    end = rules.stall_s
    found = hung_at(job(lambda at: 20.0 if at < end else 1.0), 4 * rules.stall_s, rules)
    assert found is not None
    assert end + rules.stall_s - 1 <= found <= end + rules.stall_s + 1


@pytest.mark.parametrize("rules", [SHORT, LONG])
@pytest.mark.parametrize(
    "rate",
    [
        lambda _: 1.0,
        lambda _: 3.0,  # a header, a body and an answer each second
        lambda at: 30.0 if at % 15 == 0 else 0.0,  # telemetry
    ],
)
def test_heartbeats_and_telemetry_are_no_stream(rules: Rules, rate: Callable[[float], float]) -> None:
    assert hung_at(job(rate), 2 * rules.stall_s, rules) == rules.stall_s


@pytest.mark.parametrize("rules", [SHORT, LONG])
def test_wakes_by_a_time_limit_and_to_read_what_is_counted_are_no_stream(rules: Rules) -> None:
    # As measured of a service process at rest; see CLOCKED_WAKES.
    assert hung_at(job(lambda _: 17.0, EPOLL), 2 * rules.stall_s, rules) == rules.stall_s
    untimed = msgspec.structs.replace(EPOLL, limit_s=None)
    assert hung_at(job(lambda _: 17.0, untimed, reads=17.0), 2 * rules.stall_s, rules) == rules.stall_s
    assert hung_at(job(lambda _: 60.0, EPOLL, reads=17.0), 2 * rules.stall_s, rules) is None


def test_a_writer_that_waits_for_its_reader_moves_more_with_each_wake_than_a_reader() -> None:
    writer = msgspec.structs.replace(TAKER, is_send=True)
    assert hung_at(job(lambda _: 2.0, writer), 30, SHORT) is None
    assert hung_at(job(lambda at: 2.0 if at < 10 else 0.0, writer), 40, SHORT) == 19
    assert hung_at(job(lambda at: float(at % 2 == 0), writer), 30, SHORT) == 10


def test_wakes_of_a_thread_that_has_gone_elsewhere_are_no_stream() -> None:
    def make(at: float) -> Sample:
        return sample(at, receivers=(ReceiverSample(TAKER, False, int(20 * at), 0),))

    assert hung_at(make, 30, SHORT) == 10


def test_the_reasons_say_what_is_taken_and_what_the_user_can_do() -> None:
    said = {}
    for rate in (1.0, 20.0):
        verdicts = list(replay([job(lambda _, rate=rate: rate)(float(at)) for at in range(10)], SHORT))
        said[rate] = next(reason for reason in verdicts[-1].reasons if "UNIX" in reason)
        assert "X_STEP" in said[rate]
    assert "1 times a second, bytes that nobody counts: no stream" in said[1.0]
    assert "20 times a second, bytes that nobody counts: the busy timeout decides" in said[20.0]


def test_a_broken_rhythm_with_stacks_that_stand_still_says_nothing_while_such_data_comes() -> None:
    rules = Rules(stall_s=20.0, busy_s=200.0)
    look = Look(ROOT, "00000001", ("take (job.py:3)",), is_active=False)

    def make(rate: float) -> Callable[[float], Sample]:
        def at_second(at: float) -> Sample:
            plain = job(lambda _: rate)(at)
            return msgspec.structs.replace(plain, output=reading(min(at, 10), 100), looks=(look, look))

        return at_second

    found = hung_at(make(20.0), 400, rules)
    assert found is not None
    assert found >= 200


relaxed = settings(deadline=None, max_examples=60)
rates = st.lists(st.sampled_from([0, 1, 3, 4, 5, 6, 20, 100]), min_size=14, max_size=45)


def stream(
    of: list[int], receiver: Receiver = TAKER, blind: frozenset[int] = frozenset(), lost: frozenset[int] = frozenset()
) -> list[Sample]:
    total, made = 0, []
    for second, woken in enumerate(of):
        total += woken
        seen = ReceiverSample(receiver, None, None if second in blind else total, 0)
        made.append(sample(float(second), receivers=None if second in lost else (seen,)))
    return made


def hung_from(samples: list[Sample]) -> float:
    return next((verdict.at for verdict in replay(samples, SHORT) if verdict.state is State.HUNG), float("inf"))


@relaxed
@given(rates, st.lists(st.tuples(st.integers(0, 44), st.sampled_from([1, 3, 5, 50])), max_size=8))
def test_more_wakes_never_bring_a_hang_nearer(of: list[int], extra: list[tuple[int, int]]) -> None:
    richer = list(of)
    for second, more in extra:
        if second < len(richer):
            richer[second] += more
    assert hung_from(stream(richer)) >= hung_from(stream(of))


@relaxed
@given(rates)
def test_to_look_at_a_thread_never_brings_a_hang_nearer(of: list[int]) -> None:
    plain = [msgspec.structs.replace(one, receivers=()) for one in stream(of)]
    assert hung_from(stream(of)) >= hung_from(plain)


def test_a_stream_that_cannot_be_read_for_a_while_goes_on_where_it_was() -> None:
    gap = frozenset(range(20, 26))
    for blind, lost in ((gap, frozenset[int]()), (frozenset[int](), gap)):
        assert hung_from(stream([20] * 45, blind=blind, lost=lost)) == float("inf")


def test_threads_that_have_ended_are_forgotten_and_those_that_a_survey_left_out_are_not() -> None:
    known = {(ROOT, 101): msgspec.structs.replace(TAKER, tid=101)}
    whole = waiting(UNIX)
    part = msgspec.structs.replace(whole, refuted="somebody wakes by the clock")
    assert [len(find_receivers(one, known)) for one in (whole, part)] == [1, 2]


@relaxed
@given(rates, st.sampled_from([0.05, 0.1, 1.0, 30.0]))
def test_a_longer_time_limit_never_brings_a_hang_nearer(of: list[int], limit_s: float) -> None:
    short = msgspec.structs.replace(EPOLL, limit_s=limit_s)
    longer = msgspec.structs.replace(EPOLL, limit_s=10 * limit_s)
    none = msgspec.structs.replace(EPOLL, limit_s=None)
    assert hung_from(stream(of, short)) <= hung_from(stream(of, longer)) <= hung_from(stream(of, none))


@relaxed
@given(rates, st.frozensets(st.integers(2, 44)))  # the first reading is what later ones are measured against
def test_a_thread_that_cannot_be_read_now_and_then_never_brings_a_hang_nearer(of: list[int], blind: frozenset[int]) -> None:
    assert hung_from(stream(of, blind=blind)) >= hung_from(stream(of))
    assert hung_from(stream(of, lost=blind)) >= hung_from(stream(of))


@pytest.mark.parametrize(("core", "is_asked"), [(0.07, True), (0.5, False)])
def test_who_waits_for_what_is_asked_of_a_doubted_job_that_is_at_work_for_too_little_to_count(core: float, is_asked: bool) -> None:
    verdicts = list(replay([sample(float(at), process(utime_s=core * at)) for at in range(30)], LONG))
    late = [verdict for verdict in verdicts if verdict.state is State.SUSPECTED]
    assert bool(late) is is_asked
    assert any(verdict.wants_survey for verdict in late) is is_asked
