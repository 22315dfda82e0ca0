"""Post-copy: start the guest on B with almost nothing, and fetch its memory while it runs.

A page that the guest touches before it has come is a network fault: the guest waits until the page has been asked for and
sent. A *pager* decides what A sends when no page is asked for: nothing (``Demand``), page after page (``Push``), or pages
around the latest faults (``Prepaging``) [Hines09]. A workload's writes stand for all touches of the guest.
"""

from copy import deepcopy
from typing import NamedTuple

import numpy as np

from vlib.migration import FREE, ONE, Guest, Round, Tracking, check_link, transfer_us
from vlib.workloads import PAGE, SECOND, check_range

NEVER = np.iinfo(np.int64).max
WINDOW_US = (
    20_000  # guest time that is looked at in one go, more after one without faults; any length gives the same trace
)


class Fault(NamedTuple):
    """A wait of the guest for a page that had not come; times in µs."""

    start: int
    end: int
    phase: str
    page: int
    bytes: int  # 0 if the page was under way when the guest touched it


class Demand:
    """Send only what is asked for."""

    def fault(self, page: int) -> None:
        """Take note of a fault."""

    def take(self, n: int, unsent: np.ndarray) -> np.ndarray:
        """Return up to n of the unsent pages, in the order to send them; fewer: no more until the next fault.

        `unsent` has a bool for each page. The caller marks the pages as sent.
        """
        return np.empty(0, np.int64)


class Push(Demand):
    """Send page after page, in order."""

    def __init__(self):
        self.at = 0

    def take(self, n, unsent):
        """Return up to n of the unsent pages, in the order to send them."""
        pages = _outward(unsent, self.at, 1, n)
        if pages.size:
            self.at = int(pages[-1]) + 1
        return pages


class Prepaging(Demand):
    """Send pages around the latest faults: a bubble grows from each of up to `pivots` pivots [Hines09].

    The edges of the bubbles take turns, those of the latest pivot first; each sends the next unsent page outwards. Edges
    that go the same way and have met are one. Before the first fault page 0 is the pivot.
    """

    def __init__(self, pivots: int = 7):
        check_range("pivots", pivots, 1)
        self.pivots = pivots
        self._begin([(0, 1)])

    def fault(self, page):
        """Make the page a pivot, in place of the oldest if there are enough."""
        self._begin([(page, 1), (page, -1), *self.edges][: 2 * self.pivots])

    def take(self, n, unsent):
        """Return up to n of the unsent pages, in the order to send them."""
        found = []
        while n > 0 and (self.plan.size or self._make_plan(unsent)):
            pages, self.plan = self.plan[:n], self.plan[n:]
            unsent[pages] = False  # for the next plan
            found.append(pages)
            n -= pages.size
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _begin(self, edges):
        self.edges = self.ahead = edges  # (page, direction) when the plan was made, and when it has been carried out
        self.plan, self.turns = np.empty(0, np.int64), 8

    def _make_plan(self, unsent):
        """Plan some turns of all edges, twice as many each time: what is sent depends on the faults, not on who asks when."""
        ways = {}
        for at, step in self.ahead:
            pages = _outward(unsent, at, step, self.turns)
            if pages.size:
                ways[int(pages[0]), step] = pages
        if not ways:  # no edge has anything before it
            pages = _outward(unsent, 0, 1, self.turns)
            if not pages.size:
                return False
            ways[int(pages[0]), 1] = pages
        self.edges = list(ways)
        self.ahead = [(int(pages[-1]) + step, step) for (_, step), pages in ways.items()]
        turn = np.concatenate([np.arange(pages.size) for pages in ways.values()])
        plan = np.concatenate(list(ways.values()))[np.argsort(turn, kind="stable")]
        self.plan = plan[np.sort(np.unique(plan, return_index=True)[1])]  # where two bubbles touch, whoever comes first
        self.turns = min(2 * self.turns, 2**14)
        return True


def _outward(unsent, at, step, n):
    """Return up to n unsent pages from `at` on, in steps of +1 or -1."""
    found, size = [np.empty(0, np.int64)], 4 * n + 64
    while n > 0 and 0 <= at < unsent.size:
        part = unsent[at : at + size] if step > 0 else unsent[max(at - size + 1, 0) : at + 1][::-1]
        pages = at + step * np.flatnonzero(part)[:n]
        found.append(pages)
        n -= pages.size
        at += step * part.size
        size *= 2
    return np.concatenate(found)


def postcopy(
    workload,
    pages: int,
    bandwidth: int,
    pager,
    latency_us: int = 100,
    state_bytes: int = 262_144,
    activation_us: int = 0,
    horizon_us: int = 600 * SECOND,
) -> list:
    """Stop the guest, start it on B with its CPU and device state only, and let the pager bring its memory.

    `pages` of 4 KiB, `bandwidth` in bytes a second, `latency_us` one way; the run works on a copy of the `pager`. The
    trace has the stop, the time of fetching as one ``Round`` (without the pages asked for), and each ``Fault``. When the
    guest has run for `horizon_us` on B the rest is left on A: with ``Demand`` it may stay there for ever.

    >>> from vlib.workloads import Sweep
    >>> trace = postcopy(Sweep(pages=100, rate=1000), 1000, 10_000 * PAGE, Push())
    >>> trace[1].end - trace[1].start, network_faults(trace)
    (100100, 1)
    """
    check_link(bandwidth, activation_us)
    guest = Guest(workload, pages)
    return _pull(
        guest, [], np.ones(pages, bool), 0, bandwidth, pager, latency_us, state_bytes, activation_us, horizon_us
    )


def hybrid(
    workload,
    pages: int,
    bandwidth: int,
    pager,
    latency_us: int = 100,
    state_bytes: int = 262_144,
    activation_us: int = 0,
    horizon_us: int = 600 * SECOND,
    tracking: Tracking = FREE,
) -> list:
    """Send all memory once while the guest runs, then go on as post-copy with the pages that were dirtied meanwhile.

    The list of these pages, a bit for each page of the guest, goes with the state.

    >>> from vlib.workloads import Sweep
    >>> trace = hybrid(Sweep(pages=100, rate=1000), 1000, 10_000 * PAGE, Push())
    >>> [(r.phase, r.sent) for r in trace if isinstance(r, Round)]
    [('pre-copy', 1000), ('stop-and-copy', 0), ('post-copy', 100)]
    """
    check_link(bandwidth, activation_us)
    check_range("state_bytes", state_bytes, 0)
    guest = Guest(workload, pages, tracking)
    us = transfer_us(pages * PAGE, bandwidth)
    ran = guest.run(us, guest.memory)
    dirty = guest.dirty()
    unsent = np.zeros(pages, bool)
    unsent[dirty] = True
    first = Round(0, us, "pre-copy", bandwidth, pages, pages * PAGE, 0, dirty.size, dirty.size, ran, "one round")
    state_bytes += -(-pages // 8)
    return _pull(guest, [first], unsent, us, bandwidth, pager, latency_us, state_bytes, activation_us, horizon_us)


def _pull(guest, trace, unsent, clock, bandwidth, pager, latency, state_bytes, activation_us, horizon_us):
    check_range("latency_us", latency, 0)
    check_range("state_bytes", state_bytes, 0)
    check_range("horizon_us", horizon_us, 1)
    up = clock + transfer_us(state_bytes, bandwidth) + latency
    trace.append(Round(clock, up, "stop-and-copy", bandwidth, 0, state_bytes, 0, 0, int(unsent.sum()), 0))
    if activation_us:
        trace.append(Round(up, up + activation_us, "activation", bandwidth, 0, 0, 0, 0, 0, 0))
        up += activation_us

    wire = _Wire(guest, unsent, up, bandwidth, latency, deepcopy(pager))
    twin = guest.at_a.copy()  # the memory of a guest that never moved
    now, faults, waited, horizon, window = up, [], 0, guest.now + horizon_us, WINDOW_US
    while guest.now < horizon and (wire.left or now < wire.last_arrival):
        span = min(window, horizon - guest.now)
        times, pages = guest.upcoming(span)
        missing = np.flatnonzero(wire.arrival[pages] > now)
        first_touches = np.sort(missing[np.unique(pages[missing], return_index=True)[1]])
        for touch in first_touches.tolist():
            at = now + int(times[touch]) - guest.now
            there, asked = wire.fetch(int(pages[touch]), at)
            if there > at:
                faults.append(Fault(at, there, "post-copy", int(pages[touch]), PAGE if asked else 0))
                waited += there - at
                now += there - at
        np.add.at(guest.at_b, pages, ONE)
        np.add.at(twin, pages, ONE)
        guest.now, guest.made = guest.now + span, 0
        now += span
        wire.send_until(now)
        window = WINDOW_US if first_touches.size else min(2 * window, SECOND)

    guest.at_a = np.where(unsent, guest.at_b, twin) if wire.left else twin
    guest.prove_arrival()
    end = max(wire.last_arrival, up) if not wire.left else now
    asked = sum(fault.bytes > 0 for fault in faults)
    pushed = wire.sent - asked
    why = "left on A" if wire.left else "all there"
    trace.append(Round(up, end, "post-copy", bandwidth, pushed, pushed * PAGE, 0, 0, wire.left, end - up - waited, why))
    return trace + faults


class _Wire:
    """A's side of the link: one page after another, asked for or chosen by the pager; times in µs."""

    def __init__(self, guest, unsent, start, bandwidth, latency, pager):
        self.guest, self.unsent, self.pager = guest, unsent, pager
        self.bandwidth, self.latency = bandwidth, latency
        self.left, self.sent, self.last_arrival = int(unsent.sum()), 0, 0
        self.arrival = np.where(unsent, NEVER, 0)
        self.origin, self.busy = start, 0  # the link is busy until `busy` bytes times SECOND have passed since `origin`

    def send_until(self, time: int) -> None:
        """Send what the pager chooses, as long as the next page would begin before `time`."""
        passed = (time - self.origin) * self.bandwidth
        n = min(-(-(passed - self.busy) // (PAGE * SECOND)), self.left)
        if n > 0:
            pages = np.asarray(self.pager.take(n, self.unsent), np.int64)
            if pages.size > n or (self.arrival[pages] != NEVER).any():
                raise ValueError(f"the pager gave {pages.size} pages, allowed: up to {n}, none of them sent before")
            self._send(pages)
        if self.busy < passed:  # the link has been idle
            self.origin, self.busy = time, 0

    def fetch(self, page: int, at: int) -> tuple[int, bool]:
        """Touch a page at time `at`: return when it is there, and whether it had to be sent for this."""
        self.send_until(at)
        if self.arrival[page] <= at:
            return at, False
        self.send_until(at + self.latency)
        asked = bool(self.arrival[page] == NEVER)
        if asked:
            self._send(np.array([page]))
        self.pager.fault(page)
        return int(self.arrival[page]), asked

    def _send(self, pages):
        if pages.size:
            passed = self.busy + PAGE * SECOND * np.arange(1, pages.size + 1)
            self.busy = int(passed[-1])
            self.arrival[pages] = self.origin - (-passed // self.bandwidth) + self.latency
            self.last_arrival = int(self.arrival[pages[-1]])
            self.unsent[pages] = False
            self.left -= pages.size
            self.sent += pages.size
            self.guest.send(pages)


def network_faults(trace: list) -> int:
    """Return how often the guest waited for a page."""
    return sum(isinstance(event, Fault) for event in trace)
