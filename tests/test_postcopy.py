from itertools import pairwise

import numpy as np
import pytest
import reference_migration as plain
from hypothesis import given, settings
from hypothesis import strategies as st
from test_migration import PAGE_US, TRACKINGS, bandwidth_of, guests

import vlib.postcopy
from vlib.migration import GBIT, Guest, Round, bytes_sent, downtime, total_time
from vlib.postcopy import NEVER, Demand, Fault, Prepaging, Push, hybrid, network_faults, postcopy
from vlib.workloads import PAGE, SECOND, Idle, Recorded, Sweep, Uniform


class Near(Demand):
    """Send three pages after each fault, then wait for the next: a pager that leaves the link idle."""

    def __init__(self):
        self.wanted = []

    def fault(self, page):
        self.wanted = [page + 1, page + 2, page + 3]

    def take(self, n, unsent):
        found = [page for page in self.wanted if page < len(unsent) and unsent[page]][:n]
        self.wanted = [page for page in self.wanted if page not in found]
        return found


@st.composite
def pagers(draw):
    """Draw a pager and its double in plain Python."""
    pivots = draw(st.integers(1, 4))
    return draw(
        st.sampled_from(
            (
                (Demand(), Demand()),
                (Push(), plain.Push()),
                (Prepaging(pivots), plain.Prepaging(pivots)),
                (Near(), Near()),
            )
        )
    )


# Traces by hand


def test_demand_by_hand():
    # A page takes 10 µs, each way 4 µs. The stop sends one page: 10 + 4. The guest touches page 1 at 14 + 3.
    trace = postcopy(Recorded([3, 5, 6], [1, 1, 0]), 3, PAGE * 100_000, Demand(), 4, PAGE, 2, horizon_us=100)
    assert trace == [
        Round(0, 14, "stop-and-copy", PAGE * 100_000, 0, PAGE, 0, 0, 3, 0),
        Round(14, 16, "activation", PAGE * 100_000, 0, 0, 0, 0, 0, 0),
        Round(16, 152, "post-copy", PAGE * 100_000, 0, 0, 0, 0, 1, 100, "left on A"),
        Fault(19, 37, "post-copy", 1, PAGE),  # asked 4, sent 10, here after 4 more
        Fault(40, 58, "post-copy", 0, PAGE),
    ]
    assert (network_faults(trace), bytes_sent(trace), downtime(trace)) == (2, 3 * PAGE, 16)


def test_push_by_hand():
    # Pages 0, 1, 2, 3 are sent from 0, 10, 20, 30 on. Page 1 is touched at 11, under way; page 3 at 12 + 11: asked for at
    # 23 it is known at 27, when page 2 is on the link until 30.
    trace = postcopy(Recorded([11, 12], [1, 3]), 5, PAGE * 100_000, Push(), 4, 0)
    assert trace == [
        Round(0, 4, "stop-and-copy", PAGE * 100_000, 0, 0, 0, 0, 5, 0),
        Round(4, 58, "post-copy", PAGE * 100_000, 4, 4 * PAGE, 0, 0, 0, 54 - 13 - 19, "all there"),
        Fault(15, 28, "post-copy", 1, 0),
        Fault(29, 48, "post-copy", 3, PAGE),
    ]


def test_a_page_is_there_when_its_last_bit_is():
    # Page 0 is there at 4 + 10 + 4: a touch at 18, 14 after the start, does not wait, one at 17 does.
    for touch, faults in ((14, 0), (13, 1)):
        trace = postcopy(Recorded([touch], [0]), 1, PAGE * 100_000, Push(), 4, 0)
        assert network_faults(trace) == faults
        assert total_time(trace) == 18


def test_prepaging_by_hand():
    unsent = np.ones(12, bool)
    pager = Prepaging(pivots=1)
    assert pager.take(2, unsent).tolist() == [0, 1]
    unsent[6] = False
    pager.fault(6)
    assert pager.take(4, unsent).tolist() == [7, 5, 8, 4]
    unsent[10] = False
    pager.fault(10)
    assert pager.take(100, unsent).tolist() == [11, 9, 3, 2]  # around 10; 8 and the others are gone
    assert pager.take(1, unsent).tolist() == []


def test_bubbles_that_meet_are_one():
    unsent = np.ones(100, bool)
    pager = Prepaging(pivots=2)
    for page in (10, 40):
        unsent[page] = False
        pager.fault(page)
    sent = pager.take(97, unsent).tolist()
    assert sent[:8] == [41, 39, 11, 9, 42, 38, 12, 8]
    assert sorted(sent + unsent.nonzero()[0].tolist()) == [page for page in range(100) if page not in (10, 40)]
    assert len(pager.edges) < 4


def test_prepaging_without_pivots_left_looks_everywhere():
    unsent = np.ones(8, bool)
    pager = Prepaging(pivots=1)
    pager.take(8, unsent)
    unsent[[2, 5]] = True  # behind every edge
    assert pager.take(8, unsent).tolist() == [2, 5]


# The page-by-page reference


@settings(deadline=None, max_examples=150)
@given(
    guests(), PAGE_US, pagers(), st.integers(0, 60), st.integers(0, 3 * PAGE), st.integers(0, 9), st.integers(1, 1500)
)
def test_postcopy_is_what_plain_python_says(guest, page_us, pager, latency, state, activation, horizon_us):
    workload, pages = guest
    ours, theirs = pager
    trace = postcopy(workload, pages, bandwidth_of(page_us), ours, latency, state, activation, horizon_us)
    more = (latency, state, activation, horizon_us, (0, 1, 1), horizon_us)
    assert trace == plain.postcopy(workload, pages, bandwidth_of(page_us), theirs, *more)
    check_trace(trace, pages)


@settings(deadline=None, max_examples=100)
@given(guests(), PAGE_US, pagers(), st.integers(0, 60), TRACKINGS, st.integers(1, 1500))
def test_hybrid_is_what_plain_python_says(guest, page_us, pager, latency, tracking, horizon_us):
    workload, pages = guest
    ours, theirs = pager
    trace = hybrid(workload, pages, bandwidth_of(page_us), ours, latency, 9, 0, horizon_us, tracking)
    horizon = horizon_us + (page_us + 1) * pages
    more = (latency, 9, 0, horizon_us, tracking, horizon)
    assert trace == plain.hybrid(workload, pages, bandwidth_of(page_us), theirs, *more)
    check_trace(trace, pages)


def check_trace(trace, pages):
    """Assert what holds for every post-copy and hybrid."""
    stretches = [event for event in trace if isinstance(event, Round)]
    faults = [event for event in trace if isinstance(event, Fault)]
    assert trace == stretches + faults
    assert stretches[0].start == 0
    assert all(before.end == after.start for before, after in pairwise(stretches))
    assert all(before.end <= after.start for before, after in pairwise(faults))
    last = stretches[-1]
    assert all(last.start <= fault.start < fault.end <= last.end for fault in faults)
    assert len({fault.page for fault in faults}) == len(faults)
    assert last.ran == last.end - last.start - sum(fault.end - fault.start for fault in faults)
    fetched = last.sent + sum(fault.bytes > 0 for fault in faults)
    to_fetch = stretches[0].left  # after the first round of hybrid, or at the stop
    assert fetched + last.left == to_fetch <= pages
    assert bytes_sent(trace) == sum(r.bytes for r in stretches[:-1]) + fetched * PAGE
    assert (last.why == "all there") == (last.left == 0)


@given(st.data())
def test_pagers_do_not_depend_on_how_they_are_asked(data):
    size = data.draw(st.integers(1, 60))
    gone = list(data.draw(st.sets(st.integers(0, size - 1))))
    steps = data.draw(
        st.lists(st.tuples(st.booleans(), st.integers(0, size - 1)), max_size=12), label="(is a fault, page or amount)"
    )
    kind = data.draw(st.sampled_from((Push, lambda: Prepaging(1), lambda: Prepaging(3))))

    def sent(cut):
        pager, unsent, found = kind(), np.ones(size, bool), []
        unsent[gone] = False
        for is_fault, number in steps:
            if is_fault:
                unsent[number] = False
                pager.fault(number)
            else:
                for n in [1] * number if cut else [number]:
                    pages = pager.take(n, unsent)
                    unsent[pages] = False
                    found += pages.tolist()
        return found

    assert sent(True) == sent(False)
    assert len(set(sent(True))) == len(sent(True))


@pytest.mark.parametrize("pager", [Demand(), Push(), Prepaging(3), Near()])
@pytest.mark.parametrize("window", [1, 37, 10_000_000])
def test_the_window_changes_nothing(monkeypatch, pager, window):
    def run():
        return [
            scheme(Uniform(40, 20_000), 200, PAGE * 100_000, pager, latency_us=13, horizon_us=6_000)
            for scheme in (postcopy, hybrid)
        ]

    expected = run()
    monkeypatch.setattr(vlib.postcopy, "WINDOW_US", window)
    assert run() == expected


def test_a_pager_object_serves_many_runs():
    pager = Prepaging(3)
    first, second = (postcopy(Uniform(400, 20_000), 2000, 50_000 * PAGE, pager) for _ in range(2))
    assert first == second == postcopy(Uniform(400, 20_000), 2000, 50_000 * PAGE, Prepaging(3))


# Closed forms


def test_demand_costs_one_round_trip_for_each_page():
    # 100 pages, touched once a millisecond: each waits two latencies and one page.
    trace = postcopy(Sweep(100, 1000), 100, PAGE * 100_000, Demand(), latency_us=50, horizon_us=SECOND)
    assert network_faults(trace) == 100
    assert {fault.end - fault.start for fault in trace[2:]} == {50 + 10 + 50}
    assert trace[1].left == 0


def test_pushing_a_guest_that_does_nothing_takes_what_its_memory_takes():
    trace = postcopy(Idle(), 5000, 1234 * PAGE, Push(), latency_us=70, state_bytes=0)
    assert total_time(trace) == 70 + -(-5000 * SECOND // 1234) + 70
    assert (trace[1].sent, network_faults(trace)) == (5000, 0)


def test_prepaging_beats_pushing_and_pushing_beats_demand():
    # The first fault of a sweep tells where it goes on.
    demand, push, prepaging = (
        network_faults(postcopy(Sweep(2000, 5000, first=5000), 10_000, 40_000 * PAGE, pager, horizon_us=SECOND))
        for pager in (Demand(), Push(), Prepaging())
    )
    # Pushing comes to page 5000 in 125 ms, to which the guest's waits are to be added: the sweep is then 313 pages on.
    assert (demand, push, prepaging) == (2000, 313, 1)


def test_hybrid_asks_for_less_than_postcopy():
    guest = Uniform(500, 20_000)
    traces = [scheme(guest, 20_000, 40_000 * PAGE, Demand(), horizon_us=SECOND) for scheme in (hybrid, postcopy)]
    assert network_faults(traces[0]) <= traces[0][0].dirtied <= 500
    assert bytes_sent(traces[0]) > 20_000 * PAGE > bytes_sent(traces[1])


# The proof of arrival


def run(pager, scheme=postcopy):
    return scheme(Uniform(50, 20_000), 200, PAGE * 100_000, pager, horizon_us=20_000)


class Swallow(Push):
    """Mark a page as sent that is not sent."""

    def take(self, n, unsent):
        unsent[150] = False
        return super().take(n, unsent)


class Forget(Push):
    """Never send one page."""

    def take(self, n, unsent):
        unsent[150], before = False, bool(unsent[150])
        pages = super().take(n, unsent)
        unsent[150] = before
        return pages


def test_a_page_that_is_marked_but_not_sent_is_found():
    with pytest.raises(RuntimeError, match="1 pages differ between A and B, the first is page 150"):
        run(Swallow())


def test_a_page_that_is_never_sent_is_told():
    trace = run(Forget())
    assert (trace[1].left, trace[1].why) == (1, "left on A")


@pytest.mark.parametrize("pages", [[7, 7], [7], [7, 8, 9]])
def test_a_page_sent_twice_is_refused(pages):
    class Twice(Push):
        def take(self, n, unsent):
            return pages[:n]

    with pytest.raises(ValueError, match="none of them sent before"):
        run(Twice())


def test_more_pages_than_asked_for_are_refused():
    class Flood(Push):
        def take(self, n, unsent):
            return super().take(n + 1, unsent)

    with pytest.raises(ValueError, match="the pager gave 11 pages, allowed: up to 10"):
        run(Flood())


def test_an_old_version_over_a_newer_one_is_found(monkeypatch):
    send = vlib.postcopy._Wire._send

    def twice(self, pages):
        send(self, pages)
        self.guest.send(np.flatnonzero(self.arrival != NEVER)[:1])

    monkeypatch.setattr(vlib.postcopy._Wire, "_send", twice)
    monkeypatch.setattr(vlib.postcopy, "WINDOW_US", 100)
    with pytest.raises(RuntimeError, match="1 pages differ"):
        run(Push())


def test_a_page_missing_from_hybrids_list_is_found(monkeypatch):
    run(Push(), hybrid)
    whole = Guest.dirty
    monkeypatch.setattr(Guest, "dirty", lambda self: whole(self)[1:])
    with pytest.raises(RuntimeError, match="1 pages differ"):
        run(Push(), hybrid)


# Bad input and large numbers


@pytest.mark.parametrize("scheme", [postcopy, hybrid])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bandwidth": 0}, "bandwidth is 0, allowed: whole numbers, 1 or more"),
        ({"bandwidth": 2.5}, "bandwidth is 2.5"),
        ({"pages": 9}, "the workload writes up to page 9, allowed: 0 to 8"),
        ({"latency_us": -1}, "latency_us is -1"),
        ({"state_bytes": -1}, "state_bytes is -1"),
        ({"activation_us": -1}, "activation_us is -1"),
        ({"horizon_us": 0}, "horizon_us is 0"),
    ],
)
def test_bad_input(scheme, change, told):
    good = {"workload": Uniform(10, 5), "pages": 10, "bandwidth": GBIT, "pager": Push()}
    scheme(**good)
    with pytest.raises(ValueError) as error:
        scheme(**good | change)
    assert told in str(error.value)


def test_pivots_are_at_least_one():
    with pytest.raises(ValueError, match="pivots is 0, allowed: whole numbers, 1 or more"):
        Prepaging(0)


def test_a_fast_link_and_a_long_wait_do_not_overflow(monkeypatch):
    monkeypatch.setattr(vlib.postcopy, "WINDOW_US", 100 * SECOND)
    # 3000 s at 400 Gbit/s are more byte-microseconds than 64 bits hold.
    late = 3000 * SECOND
    trace = postcopy(Recorded([late], [1]), 2, 400 * GBIT, Demand(), 50, 0, horizon_us=late + 1)
    assert trace[2] == Fault(late + 50, late + 50 + 50 + 1 + 50, "post-copy", 1, PAGE)
