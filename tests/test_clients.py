import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlib.clients import outage, throughput
from vlib.migration import GBIT, Round, precopy
from vlib.postcopy import Fault, Push, postcopy
from vlib.stop_rules import Rounds
from vlib.workloads import Uniform


def stretch(start, end, phase, ran):
    return Round(start, end, phase, 1, 0, 0, 0, 0, 0, ran)


@st.composite
def traces(draw):
    """Draw stretches that follow each other, and faults within the last if it is post-copy."""
    trace, at = [], draw(st.integers(0, 20))
    for phase in draw(
        st.sampled_from((["pre-copy"] * 2 + ["stop-and-copy", "activation"], ["stop-and-copy", "post-copy"]))
    ):
        end = at + draw(st.integers(0, 50))
        ran = draw(st.integers(0, end - at)) if phase == "pre-copy" else 0
        trace.append(stretch(at, end, phase, ran))
        at = end
    if trace[-1].phase == "post-copy":
        edges = sorted(draw(st.sets(st.integers(trace[-1].start, at), max_size=8)))
        trace += [Fault(*span, "post-copy", 0, 0) for span in zip(edges[::2], edges[1::2], strict=False)]
    return trace


def share(trace, time):
    """Return which part of the µs that begins at `time` the guest executes."""
    for event in trace:
        if event.start <= time < event.end:
            if isinstance(event, Fault) or event.phase in ("stop-and-copy", "activation"):
                return 0
            if event.phase == "pre-copy":
                return event.ran / (event.end - event.start)
    return 1


@given(traces(), st.integers(1, 30), st.integers(0, 250))
def test_throughput_is_the_sum_of_its_microseconds(trace, bin_us, more):
    until = bin_us + more
    expected = [
        sum(share(trace, time) for time in range(start, start + bin_us)) / bin_us
        for start in range(0, until - bin_us + 1, bin_us)
    ]
    assert throughput(trace, bin_us, until).tolist() == pytest.approx(expected, abs=1e-9)


def test_throughput_by_hand():
    trace = [
        stretch(0, 10, "stop-and-copy", 0), stretch(10, 30, "post-copy", 17),
        Fault(12, 14, "post-copy", 7, 0), Fault(29, 30, "post-copy", 8, 0),
    ]  # fmt: skip
    assert throughput(trace, 5, 44).tolist() == pytest.approx([0, 0, 0.6, 1, 1, 0.8, 1, 1])
    assert throughput(trace, 1000, 1000).tolist() == pytest.approx([0.987])
    assert throughput([], 10, 30).tolist() == [1, 1, 1]


def test_what_is_lost_is_the_time_that_the_guest_did_not_run():
    guest = Uniform(2000, 50_000)
    for trace in (precopy(guest, 20_000, GBIT, Rounds()), postcopy(guest, 20_000, GBIT, Push())):
        stretches = [event for event in trace if isinstance(event, Round)]
        seen = throughput(trace, 1000, 2_000_000)
        lost = sum(r.end - r.start - r.ran for r in stretches)
        assert (1 - seen).sum() * 1000 == pytest.approx(lost)
        assert seen.min() >= -1e-9


@given(st.integers(0, 700), st.integers(0, 50), st.integers(0, 50), st.integers(1, 90))
def test_outage_is_what_a_sender_does_step_by_step(stop, activation, unreachable, timeout):
    trace = [
        stretch(0, 40, "pre-copy", 40),
        stretch(40, 40 + stop, "stop-and-copy", 0),
        stretch(40 + stop, 40 + stop + activation, "activation", 0),
    ]
    reachable_again = 40 + stop + activation + unreachable
    time = 40  # the segment is sent in the instant in which the guest stops, and lost if that lasts at all
    timer = patience = timeout
    while time < reachable_again:
        time += 1
        timer -= 1
        if timer == 0 and time < reachable_again:
            patience *= 2
            timer = patience
        elif timer > 0 and time >= reachable_again:
            time += timer  # the network is there, but the sender still waits
    assert outage(trace, timeout, unreachable) == time - 40


@pytest.mark.parametrize(
    ("away", "waits"), [(0, 0), (1, 1), (200, 1), (201, 3), (600, 3), (601, 7), (1400, 7), (1401, 15)]
)
def test_outage_is_a_sum_of_doubled_time_outs(away, waits):
    assert outage([stretch(0, away * 1000, "stop-and-copy", 0)], 200_000) == waits * 200_000


def test_a_migration_given_up_is_no_outage():
    assert outage([stretch(0, 40, "pre-copy", 40)], unreachable_us=10**6) == 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: throughput([], 0, 10), "bin_us is 0, allowed: whole numbers, 1 or more"),
        (lambda: throughput([], 10, 9), "until is 9, allowed: whole numbers, 10 or more"),
        (lambda: throughput([], 0.5, 10), "bin_us is 0.5"),
        (lambda: outage([], timeout_us=0), "timeout_us is 0"),
        (lambda: outage([], unreachable_us=-1), "unreachable_us is -1"),
    ],
)
def test_bad_input(make, told):
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value)
