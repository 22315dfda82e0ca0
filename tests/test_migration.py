"""Pre-copy, its stop rules, and QEMU's loop."""

from dataclasses import replace
from itertools import pairwise
from math import exp

import numpy as np
import pytest
import reference_migration as plain
from hypothesis import given, settings
from hypothesis import strategies as st
from test_workloads import workloads

import vlib.migration
from vlib.costs import CLARK05_STOP_AND_COPY_S
from vlib.migration import (
    FREE,
    GBIT,
    MAX_ROUNDS,
    MBIT,
    Guest,
    Round,
    Tracking,
    bytes_sent,
    downtime,
    plateau,
    precopy,
    rounds,
    stop_and_copy,
    total_time,
    transfer_us,
)
from vlib.qemu_migration import qemu_precopy
from vlib.stop_rules import SKIP_WORKING_SET, XEN_2005, XEN_TODAY, Adaptive, Rounds
from vlib.workloads import PAGE, SECOND, Idle, Later, Recorded, Sweep, Uniform

TRACKINGS = st.one_of(
    st.just(FREE),
    st.builds(Tracking, st.integers(0, 60), st.sampled_from((1, 1, 2, 5)), st.sampled_from((1, 1, 2, 3))),
)
PAGE_US = st.integers(2, 40)  # how long one page is on the link


def bandwidth_of(page_us):
    return PAGE * SECOND // page_us


def crowds():
    """Return a strategy for guests that make several writes in one microsecond."""
    writes = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 8)), max_size=40).map(sorted)
    return writes.map(lambda found: Recorded([time for time, _ in found], [page for _, page in found]))


@st.composite
def guests(draw):
    """Draw a workload and a memory that holds its working set."""
    workload = draw(st.one_of(workloads(), crowds()))
    return workload, max(workload.end, 1) + draw(st.integers(0, 10))


@st.composite
def rules(draw, bandwidth):
    common = {"max_rounds": draw(st.integers(1, 5)), "peek": draw(st.sampled_from((0, 0, 1, 4, 1024)))}
    common["hold_after"] = draw(st.sampled_from((0, 0, 1, 2, 3)))
    if draw(st.booleans()):
        return Rounds(draw(st.integers(0, 10)), max_factor=draw(st.integers(0, 2)), patience=3, **common)
    low, step = (draw(st.integers(bandwidth // 4, 2 * bandwidth)) for _ in range(2))
    return Adaptive(low, step, high=draw(st.integers(1, 4 * bandwidth)), goal=PAGE, **common)


def check_trace(trace, pages):
    """Assert what holds for every migration that stops the guest on A and starts it on B."""
    assert trace[0].start == 0
    assert all(before.end == after.start for before, after in pairwise(trace))
    for r in trace:
        assert 0 <= r.ran <= r.end - r.start
        assert r.start == r.end or r.bytes or r.phase == "activation"
    assert total_time(trace) == sum(r.end - r.start for r in trace)
    assert downtime(trace) == total_time(trace) - sum(r.end - r.start for r in trace if r.phase == "pre-copy")
    assert bytes_sent(trace) == sum(r.sent for r in trace) * PAGE >= pages * PAGE
    assert rounds(trace) == [r.phase for r in trace].count("pre-copy")
    assert [bool(r.why) for r in trace] == [
        r.phase != "activation" and i == rounds(trace) - 1 for i, r in enumerate(trace)
    ]


# Traces by hand


def test_precopy_by_hand():
    # One page takes 10 µs. Page 1 is written at 4 (before it is read at 10: sent with the write, and dirty all the same),
    # page 0 at 5 (after it was read at 0), page 2 at 32 in round 2, which sends pages 0 and 1 from 30 to 50.
    guest = Recorded([4, 5, 32], [1, 0, 2])
    assert precopy(guest, 3, PAGE * 100_000, Rounds(goal=0), activation_us=7) == [
        Round(0, 30, "pre-copy", PAGE * 100_000, 3, 3 * PAGE, 0, 2, 2, 30),
        Round(30, 50, "pre-copy", PAGE * 100_000, 2, 2 * PAGE, 0, 1, 1, 20),
        Round(50, 60, "pre-copy", PAGE * 100_000, 1, PAGE, 0, 0, 0, 10, "little left"),
        Round(60, 60, "stop-and-copy", PAGE * 100_000, 0, 0, 0, 0, 0, 0),
        Round(60, 67, "activation", PAGE * 100_000, 0, 0, 0, 0, 0, 0),
    ]


def test_stop_and_copy_by_hand():
    assert stop_and_copy(Sweep(2, 1000), 3, PAGE * 100_000, activation_us=5) == [
        Round(0, 30, "stop-and-copy", PAGE * 100_000, 3, 3 * PAGE, 0, 0, 0, 0),
        Round(30, 35, "activation", PAGE * 100_000, 0, 0, 0, 0, 0, 0),
    ]


def test_a_page_is_read_when_its_turn_comes():
    guest = Guest(Recorded([10, 20], [1, 1]), pages=3)
    guest.run(30, np.arange(3))  # page 1 is read at 10: the write of that instant comes too late
    assert (guest.at_a.tolist(), guest.at_b.tolist()) == ([0, 2, 0], [0, 0, 0])
    guest = Guest(Recorded([9, 20], [1, 1]), pages=3)
    guest.run(30, np.arange(3))
    assert (guest.at_a.tolist(), guest.at_b.tolist()) == ([0, 2, 0], [0, 1, 0])


def test_peeking_skips_what_is_dirty_again():
    # All pages are written in the first microsecond of each round but the first batch is already chosen.
    guest = Recorded([0, 0, 0, 0], [0, 1, 2, 3])
    trace = precopy(guest, 4, PAGE * 100_000, Rounds(goal=0, peek=1))
    assert [(r.sent, r.skipped, r.dirtied) for r in trace] == [(1, 3, 4), (4, 0, 0), (0, 0, 0)]


def test_pages_held_back_are_sent_at_the_stop_only():
    # Page 0 is written all the time, page 5 once: hold_after=2 holds page 0 after round 2.
    guest = Recorded([3, 4, *range(100, 1000, 5)], [5, 0, *[0] * 180])
    trace = precopy(guest, 10, PAGE * 100_000, Rounds(goal=0, hold_after=2))
    assert [(r.sent, r.dirtied, r.left, r.why) for r in trace] == [
        (10, 2, 2, ""), (2, 1, 1, "little left"), (1, 0, 0, ""),
    ]  # fmt: skip


# The page-by-page reference


@settings(deadline=None, max_examples=150)
@given(guests(), PAGE_US, TRACKINGS, st.sampled_from((0, 9)), st.data())
def test_precopy_is_what_plain_python_says(guest, page_us, tracking, activation_us, data):
    workload, pages = guest
    bandwidth = bandwidth_of(page_us)
    rule = data.draw(rules(bandwidth))
    trace = precopy(workload, pages, bandwidth, rule, activation_us, tracking)
    horizon = 5 * pages * (4 * page_us + 2) * tracking.granule + 1000
    assert trace == plain.precopy(workload, pages, bandwidth, rule, activation_us, tracking, horizon)
    check_trace(trace, pages if not rule.peek and not rule.hold_after else 0)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(0, 60_000), st.integers(2_000, 200_000), st.booleans(),
    st.integers(1, 200_000), TRACKINGS, st.data(),
)  # fmt: skip
def test_qemu_is_what_plain_python_says(extra, used, rate, pages_s, limited, downtime_limit, tracking, data):
    pages = used + extra
    kind = data.draw(st.sampled_from((Uniform, Sweep)))
    filled = data.draw(st.integers(0, pages))
    # With a limit of its own QEMU sends in bursts, as fast as the link: little faster than the limit, or very much.
    faster = data.draw(st.sampled_from((1.1, 3, 1_000_000)))
    link = (int(pages_s * PAGE * faster), pages_s * PAGE) if limited else (pages_s * PAGE, 0)
    setup = data.draw(st.sampled_from((0, 7000, 150_000)))
    arguments = (kind(used, rate), pages, link[0], downtime_limit, link[1], filled, 3, tracking, setup)
    trace = qemu_precopy(*arguments)
    assert trace == plain.qemu_precopy(*arguments, horizon=total_time(trace) + SECOND)
    assert all(before.end == after.start for before, after in pairwise(trace))
    assert all(0 <= r.ran <= r.end - r.start for r in trace)


@given(guests(), st.lists(st.integers(0, 300), max_size=6), TRACKINGS)
def test_a_guest_does_not_depend_on_how_its_time_is_cut(guest, spans, tracking):
    workload, pages = guest
    cut, whole = Guest(workload, pages, tracking), Guest(workload, pages, tracking)
    assert sum(cut.run(span) for span in spans) == whole.run(sum(spans)) == whole.now
    assert cut.at_a.tolist() == whole.at_a.tolist()
    assert cut.dirty().tolist() == whole.dirty().tolist()


def test_the_stride_changes_nothing(monkeypatch):
    def run():
        return precopy(Uniform(200, 30_000), 500, 10_000 * PAGE, Rounds(0), 0, Tracking(3, 2, 2))

    expected = run()
    monkeypatch.setattr(vlib.migration, "STRIDE_US", 997)
    assert run() == expected


# Closed forms


@pytest.mark.parametrize(("q", "published"), [(1.1, 0.18), (2, 0.80), (5, 0.99)])
def test_plateau_is_the_fixed_point(q, published):
    working_set, bandwidth = 10_000, 10_000  # pages, pages a second
    trace = precopy(
        Uniform(working_set, int(q * bandwidth)), 20_000, bandwidth * PAGE, Rounds(max_rounds=60, patience=0)
    )
    x = 1.0
    for _ in range(1000):
        x = 1 - exp(-q * x)
    assert x == pytest.approx(published, abs=0.005)
    assert trace[-2].why == "round limit"
    assert np.mean([r.left for r in trace[-21:-1]]) / working_set == pytest.approx(x, abs=0.02)
    # The rule sees it too, and stops near it.
    stopped = precopy(Uniform(working_set, int(q * bandwidth)), 20_000, bandwidth * PAGE, Rounds())
    assert stopped[-2].why == "plateau"
    assert stopped[-2].left / working_set == pytest.approx(x, abs=0.05)


def test_memory_does_not_move_the_plateau():
    left = [plateau(precopy(Uniform(5000, 20_000), pages, 10_000 * PAGE, Rounds())) for pages in (6000, 60_000)]
    assert left[0] == pytest.approx(left[1], rel=0.02)


def test_first_round_dirties_the_distinct_pages_of_the_formula():
    working_set, rate, pages, bandwidth = 30_000, 25_000, 50_000, 20_000
    first = precopy(Uniform(working_set, rate), pages, bandwidth * PAGE, Rounds(goal=10**6))[0]
    assert first.end == 2_500_000
    formula = working_set * (1 - exp(-rate * 2.5 / working_set))
    assert abs(first.dirtied - formula) < 3 * working_set**0.5 / 2


def test_stop_and_copy_takes_what_clark_et_al_say():
    # Published for 512 MB: 32, 16 and 8 s. With 512 MiB, as here, it is 4.9 % more: 2**20 / 10**6.
    for mbit, seconds in CLARK05_STOP_AND_COPY_S.items():
        trace = stop_and_copy(Idle(), 512 * 2**20 // PAGE, mbit * MBIT)
        assert downtime(trace) == total_time(trace) == pytest.approx(seconds * 1.048576 * SECOND, abs=1)


def test_a_sweep_shrinks_by_its_ratio():
    # 1000 pages a second are dirtied and 10000 sent: each round leaves a tenth.
    trace = precopy(Sweep(pages=10_000, rate=1000), 10_000, 10_000 * PAGE, Rounds(goal=0))
    assert [r.left for r in trace] == [1000, 100, 10, 1, 1, 0, 0]  # writes come each ms, a page takes a tenth of that
    assert trace[-2].why == "little left"


# What tracking costs


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 4))
def test_each_first_write_costs_exactly_its_price(pages, cost, batch):
    guest = Guest(Sweep(pages, rate=SECOND), pages, Tracking(cost, batch=batch))
    wall = 3 * pages * (1 + cost)
    guest.run(wall)
    assert wall - guest.now == cost * (pages // batch)  # every page once, however often it is written
    guest.dirty()
    before = guest.now
    guest.run(wall)
    noticed = pages + pages % batch  # those left over from before fill the first batch
    assert wall - (guest.now - before) == cost * (noticed // batch)


def test_a_stall_goes_on_in_the_next_round():
    guest = Guest(Recorded([5, 6], [0, 1]), 2, Tracking(cost_us=10))
    assert guest.run(8) == 5  # stalled from 5 to 15
    assert guest.at_a.tolist() == [0, 0]
    assert guest.is_dirty(np.array([0, 1])).tolist() == [True, False]  # noticed, though not yet made
    assert guest.run(7) == 0
    assert guest.run(2) == 1  # the write at 15, then a microsecond, then stalled by page 1
    assert guest.at_a.tolist() == [1, 0]
    assert guest.dirty().tolist() == [0, 1]


def test_writes_of_one_microsecond_are_made_once_though_stalls_come_between():
    guest = Guest(Recorded([5, 5, 5], [0, 1, 2]), 3, Tracking(cost_us=10))
    assert [guest.run(us) for us in (15, 10, 10, 10, 10)] == [5, 0, 0, 10, 10]
    assert guest.at_a.tolist() == [1, 1, 1]


def test_large_pages_send_more_and_cost_less():
    small, large = (
        precopy(Uniform(8192, 2000), 16_384, GBIT, Rounds(), 0, tracking)
        for tracking in (Tracking(2), Tracking(2, 512))
    )
    assert bytes_sent(large) > 1.3 * bytes_sent(small)
    assert all(r.dirtied % 512 == 0 for r in large)
    assert large[0].ran > small[0].ran
    assert small[0].end - small[0].ran == 2 * small[0].dirtied


def test_the_last_large_page_may_be_cut_off():
    guest = Guest(Recorded([0], [9]), 10, Tracking(granule=4))
    guest.run(1)
    assert guest.dirty().tolist() == [8, 9]


# The proof of arrival


@pytest.mark.parametrize("rule", [Rounds(), SKIP_WORKING_SET, Adaptive(peek=16), Rounds(peek=64)])
def test_a_page_lost_from_the_dirty_log_is_found(monkeypatch, rule):
    def run():
        return precopy(Uniform(300, 5000), 1000, 20_000 * PAGE, rule)

    run()
    whole = Guest.dirty
    monkeypatch.setattr(Guest, "dirty", lambda self: whole(self)[:-1])
    with pytest.raises(RuntimeError, match="pages differ between A and B"):
        run()


def test_a_page_lost_from_qemus_bitmap_is_found(monkeypatch):
    whole = Guest.dirty
    monkeypatch.setattr(Guest, "dirty", lambda self: whole(self)[:-1])
    with pytest.raises(RuntimeError, match="pages differ"):
        qemu_precopy(Uniform(300, 5000), 1000, 20_000 * PAGE)


def test_a_peek_that_lies_is_found(monkeypatch):
    monkeypatch.setattr(Guest, "is_dirty", lambda self, pages: pages % 7 == 3)
    with pytest.raises(RuntimeError, match="the first is page 3"):
        precopy(Idle(), 100, GBIT, Rounds(peek=10))


def test_a_send_that_does_nothing_is_found(monkeypatch):
    monkeypatch.setattr(Guest, "send", lambda self, pages: None)
    with pytest.raises(RuntimeError, match="10 pages differ between A and B, the first is page 0"):
        stop_and_copy(Idle(), 10, GBIT)


def test_a_write_that_is_not_logged_is_found(monkeypatch):
    execute = Guest._execute

    def forgetful(self, us):
        when, pages = execute(self, us)
        self._log[1] = False
        return when, pages

    monkeypatch.setattr(Guest, "_execute", forgetful)
    with pytest.raises(RuntimeError, match="1 pages differ between A and B, the first is page 1"):
        precopy(Recorded([1, 15], [0, 1]), 3, PAGE * 100_000, Rounds(goal=0))


def test_every_page_is_sent_and_counted(monkeypatch):
    seen = []

    class Watched(Guest):
        def run(self, us, leaving=None):
            seen.extend([] if leaving is None else leaving.tolist())
            return super().run(us, leaving)

        def send(self, pages):
            seen.extend(pages.tolist())
            super().send(pages)

    monkeypatch.setattr(vlib.migration, "Guest", Watched)
    for rule in (Rounds(), SKIP_WORKING_SET, XEN_2005, Adaptive()):
        seen.clear()
        trace = precopy(Uniform(500, 4000), 2000, 20_000 * PAGE, rule)
        assert len(seen) == sum(r.sent for r in trace)
        assert set(seen) == set(range(2000))


# Stop rules, as sequences


def past(*dirtied, sent=1000, us=SECOND):
    """Return rounds of one second each that dirtied so many pages."""
    return [Round(i * us, (i + 1) * us, "pre-copy", 1, sent, sent * PAGE, 0, d, d, us) for i, d in enumerate(dirtied)]


def reasons(rule, *dirtied, **more):
    history = past(*dirtied, **more)
    return [rule.stop(history[: i + 1], r.left) for i, r in enumerate(history)]


def test_adaptive_is_the_rule_of_the_paper():
    # 10,000 pages a second are 327.68 Mbit/s; the next round goes 50 Mbit/s faster; 500 Mbit/s is too much.
    rule = Adaptive()
    assert rule.rate([]) == 100 * MBIT
    assert rule.rate(past(10_000)) == 10_000 * PAGE + 50 * MBIT
    assert rule.rate(past(10_000, us=2 * SECOND)) == 5000 * PAGE + 50 * MBIT
    assert rule.rate(past(0)) == 50 * MBIT
    most = (500 - 50) * MBIT // PAGE  # pages a second: 13732
    assert reasons(rule, 5000, most, most + 1) == ["", "", "too fast"]
    assert reasons(rule, 5000, 64, 63) == ["", "", "little left"]  # 64 pages are 256 KiB, which is not less than that
    assert reasons(rule, *[5000] * 29) == [*[""] * 28, "round limit"]


def test_adaptive_ends_on_a_link_slower_than_it_asks_for():
    trace = precopy(Uniform(40_000, 9000), 50_000, 100 * MBIT, Adaptive())
    assert trace[-2].why == "round limit"
    assert {r.rate for r in trace} == {100 * MBIT}


def test_xen_of_2005():
    assert reasons(XEN_2005, 60, 50, 49) == ["", "", "little left"]  # fewer than 50 pages
    few = past(*[60] * 29, sent=100)
    first = [few[0]._replace(sent=10_000)]
    assert [XEN_2005.stop([*first, *few[1 : i + 1]], 60) for i in range(29)] == [
        *[""] * 28,
        "round limit",
    ]  # and a 30th
    # Three times the memory may be sent, not more.
    assert reasons(XEN_2005, 900, 900, 900, 900) == ["", "", "", "size limit"]


def test_xen_of_today():
    assert reasons(XEN_TODAY, 60, 60, 60, 60, 60) == ["", "", "", "", "round limit"]
    assert reasons(XEN_TODAY, 60, 49) == ["", "little left"]
    assert XEN_TODAY.peek == 0


def test_rounds_sees_a_plateau():
    assert reasons(Rounds(patience=2), 500, 400, 300, 310, 305) == ["", "", "", "", "plateau"]
    assert reasons(Rounds(patience=2), 500, 400, 300, 310, 299, 400) == [""] * 6
    assert reasons(Rounds(patience=0), *[500] * 9) == [""] * 9


def test_held_pages_do_not_count_as_little_left():
    # What can still be sent decides, not what waits for the stop.
    assert Rounds(goal=50).stop(past(500), sendable=10) == "little left"
    assert Adaptive().stop(past(500), sendable=10) == "little left"


def test_a_rule_that_never_stops_is_stopped():
    trace = precopy(Uniform(4, 10**6), 4, PAGE * 100_000, Rounds(goal=0, patience=0))
    assert rounds(trace) == MAX_ROUNDS
    assert trace[-2].why == "endless"


def test_a_rule_without_a_rate_is_refused():
    class Still(Rounds):
        def rate(self, trace):
            return 0 if trace else 1000

    with pytest.raises(ValueError, match="the rate of the rule is 0, allowed: whole numbers, 1 or more"):
        precopy(Uniform(99, 1000), 100, GBIT, Still(goal=0))


def test_a_rule_changes_with_replace():
    assert replace(XEN_TODAY, max_rounds=9).max_rounds == 9


# Metrics


TRACE = [
    Round(10, 70, "pre-copy", 1, 5, 500, 2, 3, 3, 60),
    Round(70, 90, "pre-copy", 1, 3, 300, 0, 1, 1, 15, "little left"),
    Round(90, 96, "stop-and-copy", 1, 1, 100, 0, 0, 0, 0),
    Round(96, 99, "activation", 1, 0, 0, 0, 0, 0, 0),
]


def test_metrics_of_a_trace_written_by_hand():
    assert total_time(TRACE) == 89
    assert downtime(TRACE) == 9
    assert bytes_sent(TRACE) == 900
    assert rounds(TRACE) == 2


def test_plateau_of_a_trace_written_by_hand():
    assert plateau(past(9, 5, 6, 7, 8)) == 7
    assert plateau(past(9, 5, 5, 5, 5)) == 5
    assert plateau(past(9, 5, 6, 7, 4)) is None  # a new minimum
    assert plateau(past(5, 6, 7)) is None  # too early to tell
    assert plateau([]) is None


@given(st.integers(0, 2**50), st.integers(1, 2**40))
def test_a_transfer_rounds_up(size, rate):
    us = transfer_us(size, rate)
    assert us * rate >= size * SECOND > (us - 1) * rate


# Large numbers and bad input


def test_a_slow_link_does_not_overflow():
    # The round takes 2**48 µs, and the last page has number 2**16 - 1: their product does not fit into 64 bits.
    guest = Guest(Recorded([10, 2**46], [2**16 - 1, 2**15 + 1]), 2**16)
    us = transfer_us(2**16 * PAGE, 1)
    guest.run(us, np.arange(2**16))
    assert guest.now == us > 2**47
    assert guest.dirty().tolist() == [2**15 + 1, 2**16 - 1]
    assert np.flatnonzero(guest.at_b != guest.at_a).tolist() == []  # both were written before they were read


BAD = [
    ({"bandwidth": 0}, "bandwidth is 0, allowed: whole numbers, 1 or more"),
    ({"bandwidth": -5}, "bandwidth is -5"),
    ({"bandwidth": 1e9}, "bandwidth is 1000000000.0, allowed: whole numbers"),
    ({"pages": 0}, "pages is 0, allowed: whole numbers, 1 to 2147483647"),
    ({"pages": 9}, "the workload writes up to page 9, allowed: 0 to 8"),
    ({"pages": 10.5}, "pages is 10.5"),
    ({"activation_us": -1}, "activation_us is -1"),
    ({"tracking": Tracking(-1)}, "cost_us is -1"),
    ({"tracking": Tracking(1, granule=0)}, "granule is 0"),
    ({"tracking": Tracking(1, batch=0.5)}, "batch is 0.5"),
]


@pytest.mark.parametrize(("change", "told"), BAD)
def test_bad_input_to_precopy(change, told):
    good = {"workload": Uniform(10, 5), "pages": 10, "bandwidth": GBIT, "rule": Rounds()}
    precopy(**good)
    with pytest.raises(ValueError) as error:
        precopy(**good | change)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bandwidth": 0}, "bandwidth is 0"),
        ({"pages": 9}, "the workload writes up to page 9"),
        ({"pages": -9}, "pages is -9, allowed: whole numbers, 1 to"),
        ({"downtime_limit": 0}, "downtime_limit is 0"),
        ({"downtime_limit": 0.3}, "downtime_limit is 0.3"),
        ({"max_bandwidth": -1}, "max_bandwidth is -1"),
        ({"filled": 11}, "filled is 11, allowed: whole numbers, 0 to 10"),
        ({"patience": 0}, "patience is 0"),
        ({"setup": -1}, "setup is -1"),
    ],
)
def test_bad_input_to_qemu(change, told):
    good = {"workload": Uniform(10, 5), "pages": 10, "bandwidth": GBIT}
    qemu_precopy(**good)
    with pytest.raises(ValueError) as error:
        qemu_precopy(**good | change)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: stop_and_copy(Idle(), 0, GBIT), "pages is 0"),
        (lambda: stop_and_copy(Idle(), 5, 0), "bandwidth is 0"),
        (lambda: Rounds(goal=-1), "goal is -1"),
        (lambda: Rounds(patience=1.5), "patience is 1.5"),
        (lambda: Rounds(peek=-1), "peek is -1"),
        (lambda: Adaptive(low=0), "low is 0, allowed: whole numbers, 1 or more"),
        (lambda: Adaptive(step=0), "step is 0"),
        (lambda: Adaptive(max_rounds=0), "max_rounds is 0"),
        (lambda: plateau(past(1, 2), patience=0), "patience is 0"),
    ],
)
def test_more_bad_input(make, told):
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value)


def test_what_qemu_sends_of_zero_pages():
    # 1000 pages, 10 of them filled: 10 * 4104 + 990 * 9 bytes while the guest is idle.
    trace = qemu_precopy(Later(Idle(), 5), 1000, 10 * PAGE * 1000, filled=10)
    assert bytes_sent(trace[:-1]) == 10 * 4104 + 990 * 9
    assert trace[-1].bytes == 33_784
