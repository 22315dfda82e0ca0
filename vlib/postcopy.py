"""Post-copy: start the guest on B with almost nothing, and fetch its memory while it runs.

A page that the guest touches before it has come is a network fault: the guest waits until the page has been asked for and
sent. A *pager* decides what A sends when no page is asked for: nothing (``Demand``), page after page (``Push``), or pages
around the latest faults (``Prepaging``) [Hines09]. A workload's writes stand for all touches of the guest.
"""

from typing import NamedTuple

import numpy as np

from vlib.migration import FREE, Guest, Round, Tracking, check_link, transfer_us
from vlib.workloads import PAGE, SECOND, check_range

NEVER = np.iinfo(np.int64).max
WINDOW_US = 20_000  # guest time that is looked at in one go; any length gives the same trace


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
        """Return up to n pages to send next, in order, and mark them as sent."""
        return np.empty(0, np.int64)


class Push(Demand):
    """Send page after page, in order."""

    def __init__(self):
        self.at = 0

    def take(self, n, unsent):
        """Return up to n pages to send next, in order, and mark them as sent."""
        pages = _outward(unsent, self.at, 1, n)
        if pages.size:
            self.at = int(pages[-1]) + 1
            unsent[pages] = False
        return pages


class Prepaging(Demand):
    """Send pages around the latest faults: a bubble grows from each of up to `pivots` pivots [Hines09].

    The edges of the bubbles take turns; each sends the nearest unsent page outwards. Edges that would send the same page
    in the same direction have met, and are one. Without any fault yet, page 0 is the pivot.
    """

    def __init__(self, pivots: int = 7):
        check_range("pivots", pivots, 1)
        self.pivots = pivots
        self.edges = [(0, 1)]  # (next page, direction), oldest pivot first
        self.turn = 0

    def fault(self, page):
        """Make the page a pivot, in place of the oldest if there are enough."""
        self.edges = [*self.edges, (page, -1), (page, 1)][-2 * self.pivots :]
        self.turn = 0

    def take(self, n, unsent):
        """Return up to n pages to send next, in order, and mark them as sent."""
        found = []
        while n > 0:
            self._merge(unsent)
            if not self.edges:
                first = int(unsent.argmax())
                if not unsent[first]:
                    break
                self.edges = [(first, 1)]
            pages = self._whole_turns(n, unsent)
            unsent[pages] = False
            found.append(pages)
            n -= pages.size
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _merge(self, unsent):
        """Move each edge on to its next unsent page, and drop edges that have met another or have none."""
        edges, turn = [], 0
        for i, (at, step) in enumerate(self.edges):
            if i == self.turn:
                turn = len(edges)
            if not (0 <= at < unsent.size and unsent[at]):
                page = _outward(unsent, at, step, 1)
                at = int(page[0]) if page.size else None
            if at is not None and (at, step) not in edges:
                edges.append((at, step))
        self.edges, self.turn = edges, turn if turn < len(edges) else 0

    def _whole_turns(self, n, unsent):
        """Return the pages of as many whole rounds of turns as fit in n and are free of meetings, or of one turn."""
        order = self.edges[self.turn :] + self.edges[: self.turn]
        each = n // len(order)
        while each > 0:
            columns = [_outward(unsent, at, step, each) for at, step in order]
            each = min(column.size for column in columns)
            rows = np.stack([column[:each] for column in columns], axis=1)
            if np.unique(rows).size == rows.size:
                order = [(int(row[-1]) + step, step) for row, (_, step) in zip(rows.T, order, strict=True)]
                self.edges = order[len(order) - self.turn :] + order[: len(order) - self.turn]
                return rows.ravel()
            each //= 2
        at, step = order[0]
        self.edges[self.turn] = (at + step, step)
        self.turn = (self.turn + 1) % len(self.edges)
        return np.array([at])


def _outward(unsent, at, step, n):
    """Return up to n unsent pages from `at` on, in steps of +1 or -1."""
    at, limit, size = max(at, 0) if step > 0 else at, unsent.size, 4 * n + 64
    if step < 0:
        at = min(at, limit - 1)
    found = []
    while n > 0 and 0 <= at < limit:
        part = unsent[at : at + size] if step > 0 else unsent[max(at - size + 1, 0) : at + 1][::-1]
        pages = at + step * np.flatnonzero(part)[:n]
        found.append(pages)
        n -= pages.size
        at += step * part.size
        size *= 2
    return np.concatenate(found) if found else np.empty(0, np.int64)


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

    `pages` of 4 KiB, `bandwidth` in bytes a second, `latency_us` one way. The trace has the stop, the time of fetching as
    one ``Round`` (without the pages asked for), and each ``Fault``. After `horizon_us` of fetching the rest is left on A:
    with ``Demand`` it may stay there for ever.

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
    guest = Guest(workload, pages, tracking)
    us = transfer_us(pages * PAGE, bandwidth)
    ran = guest.run(us, np.arange(pages, dtype=np.int32))
    dirty = guest.dirty()
    unsent = np.zeros(pages, bool)
    unsent[dirty] = True
    first = Round(0, us, "pre-copy", bandwidth, pages, pages * PAGE, 0, dirty.size, dirty.size, ran, "one round")
    state_bytes += -(-pages // 8)
    return _pull(guest, [first], unsent, us, bandwidth, pager, latency_us, state_bytes, activation_us, horizon_us)


def _pull(guest, trace, unsent, clock, bandwidth, pager, latency, state_bytes, activation_us, horizon_us):
    check_range("latency_us", latency, 0)
    check_range("state_bytes", state_bytes, 0)
    up = clock + transfer_us(state_bytes, bandwidth) + latency
    trace.append(Round(clock, up, "stop-and-copy", bandwidth, 0, state_bytes, 0, 0, int(unsent.sum()), 0))
    if activation_us:
        trace.append(Round(up, up + activation_us, "activation", bandwidth, 0, 0, 0, 0, 0, 0))
        up += activation_us

    wire = _Wire(guest, unsent, up, bandwidth, latency, pager)
    twin = guest.at_a.copy()  # the memory of a guest that never moved
    now, faults, waited = up, [], 0
    while now < up + horizon_us and (wire.left or now < wire.last_arrival):
        span = min(WINDOW_US, up + horizon_us - now)
        times, pages = guest.workload.writes(guest.now, guest.now + span)
        missing = np.flatnonzero(wire.arrival[pages] > now)
        first_touches = np.sort(missing[np.unique(pages[missing], return_index=True)[1]])
        for touch in first_touches.tolist():
            at = now + int(times[touch]) - guest.now
            there, asked = wire.fetch(int(pages[touch]), at)
            if there > at:
                faults.append(Fault(at, there, "post-copy", int(pages[touch]), PAGE if asked else 0))
                waited += there - at
                now += there - at
        np.add.at(guest.at_b, pages, 1)
        np.add.at(twin, pages, 1)
        guest.now += span
        now += span
        wire.send_until(now)

    guest.at_a = np.where(unsent, guest.at_b, twin)
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
        self.origin, self.busy = (
            start,
            0,
        )  # the link is busy until `busy` bytes have passed since `origin`, times SECOND

    def send_until(self, time: int) -> None:
        """Send what the pager chooses, as long as the next page would begin before `time`."""
        slots = -(-((time - self.origin) * self.bandwidth - self.busy) // (PAGE * SECOND))
        if slots > 0 and self.left:
            self._send(self.pager.take(min(slots, self.left), self.unsent))

    def fetch(self, page: int, at: int) -> tuple[int, bool]:
        """Touch a page at time `at`: return when it is there, and whether it had to be sent for this."""
        self.send_until(at)
        if self.arrival[page] <= at:
            return at, False
        self.send_until(at + self.latency)
        asked = bool(self.unsent[page])
        if asked:
            self.busy = max(self.busy, (at + self.latency - self.origin) * self.bandwidth)
            self.unsent[page] = False
            self._send(np.array([page]))
        self.pager.fault(page)
        return int(self.arrival[page]), asked

    def _send(self, pages):
        if pages.size:
            passed = self.busy + PAGE * SECOND * np.arange(1, pages.size + 1)
            self.busy = int(passed[-1])
            self.arrival[pages] = self.origin - (-passed // self.bandwidth) + self.latency
            self.last_arrival = int(self.arrival[pages[-1]])
            self.left -= pages.size
            self.sent += pages.size
            self.guest.send(pages)


def network_faults(trace: list) -> int:
    """Return how often the guest waited for a page."""
    return sum(isinstance(event, Fault) for event in trace)
