"""Moving a running guest's memory from host A to host B: stop-and-copy and pre-copy.

Memory is an array of page *versions*: a write raises the version of its page at A, sending a page copies the version
that it has at that instant to B. A migration has worked if both arrays are equal when B starts the guest, and every run
proves it. The stop rules of pre-copy are in `stop_rules`, QEMU's own loop in `qemu_precopy`, post-copy in `postcopy`.
"""

from typing import NamedTuple

import numpy as np

from vlib.workloads import PAGE, SECOND, check_range

MBIT = 125_000  # bytes a second
GBIT = 1000 * MBIT
MAX_ROUNDS = 1000  # far more than any real rule allows: a rule that never stops shall not run for ever


class Round(NamedTuple):
    """One stretch of a migration; times in µs of wall time, `ran` in µs of guest time, `rate` in bytes a second."""

    start: int
    end: int
    phase: str  # "pre-copy", "stop-and-copy", "post-copy" or "activation"
    rate: int
    sent: int  # pages
    bytes: int
    skipped: int  # pages not sent because they were already dirty again
    dirtied: int  # distinct pages written meanwhile
    left: int  # pages still to be sent at the end
    ran: int  # how long the guest executed
    why: str = ""  # why pre-copy ended with this round


class Tracking(NamedTuple):
    """What it costs the guest that its writes are noticed.

    The first write to each granule after a round began is noticed; each `batch` of such writes stalls the guest for
    `cost_us`. Write-protected 4 KiB pages: ``Tracking(2)``; 2 MiB pages: ``Tracking(2, granule=512)``, and one write
    makes 512 pages dirty; a hardware log with 512 entries: ``Tracking(2, batch=512)``.
    """

    cost_us: int = 0
    granule: int = 1
    batch: int = 1


FREE = Tracking()
ONE = np.int32(1)  # numpy adds a number of the type of the versions fifty times as fast as a plain 1
STRIDE_US = SECOND  # time that is looked at in one go, to bound the memory used; any length gives the same result


def transfer_us(size: int, rate: int) -> int:
    """Return how long `size` bytes take at `rate` bytes a second, in µs, rounded up.

    >>> transfer_us(4096, GBIT)
    33
    """
    return -(-size * SECOND // rate)


class Guest:
    """A guest that runs on A while its pages are copied to B.

    >>> from vlib.workloads import Sweep
    >>> guest = Guest(Sweep(pages=4, rate=1000), pages=8)
    >>> guest.run(2000)  # µs: two writes
    2000
    >>> guest.dirty().tolist()
    [0, 1]
    """

    def __init__(self, workload, pages: int, tracking: Tracking = FREE):
        check_range("pages", pages, 1, 2**31 - 1)
        if workload.end > pages:
            raise ValueError(f"the workload writes up to page {workload.end - 1}, allowed: 0 to {pages - 1}")
        for name in Tracking._fields:
            check_range(name, getattr(tracking, name), 0 if name == "cost_us" else 1)
        self.workload, self.pages, self.tracking = workload, pages, tracking
        self.now = 0  # µs of guest time
        self.made = 0  # writes of this very microsecond that are made already, while the next one waits
        self.memory = np.arange(pages, dtype=np.int32)
        self.at_a = np.zeros(pages, np.int32)
        self.at_b = np.full(pages, -1, np.int32)  # never received
        self._log = np.zeros(-(-pages // tracking.granule), bool)
        self._rank = np.zeros(pages, np.int32)
        self._stall = self._logged = 0  # µs of a stall still to come; first writes since the last stall

    def run(self, us: int, leaving: np.ndarray | None = None) -> int:
        """Run for `us` of wall time while the pages `leaving` are sent at an even pace; return the guest time run."""
        before, moving = self.now, leaving is not None and leaving.size > 0
        if leaving is self.memory:  # as below, without looking up each page
            self.at_b[:] = self.at_a
            self._rank[:] = self.memory
        elif moving:
            self.at_b[leaving] = self.at_a[leaving]
            self._rank[leaving] = np.arange(leaving.size, dtype=np.int32)
        stride = max(STRIDE_US, us // 10_000)  # a round may last for years
        for start in range(0, us, stride):
            when, pages = self._execute(min(stride, us - start))
            if moving:
                # Page number r of n is read when r/n of the time is over, and takes with it what was written before.
                rank = np.minimum(self._rank[pages], leaving.size - 1).astype(np.int64)
                whole, part = divmod(us, leaving.size)  # r * us might not fit into 64 bits
                read_at = rank * whole + rank * part // leaving.size
                taken = (leaving[rank] == pages) & (start + when < read_at)
                np.add.at(self.at_b, pages[taken], ONE)
            np.add.at(self.at_a, pages, ONE)
        return self.now - before

    def send(self, pages: np.ndarray) -> None:
        """Copy pages to B, all in one instant."""
        self.at_b[pages] = self.at_a[pages]

    def is_dirty(self, pages: np.ndarray) -> np.ndarray:
        """Peek: return for each page whether a write to it has been noticed since the last `dirty()`."""
        return self._log[pages // self.tracking.granule]

    def dirty(self) -> np.ndarray:
        """Return the dirty pages, ascending, and begin a new log."""
        found = np.flatnonzero(self._log)
        self._log[found] = False
        if self.tracking.granule > 1:
            found = (found[:, None] * self.tracking.granule + np.arange(self.tracking.granule)).ravel()
            found = found[found < self.pages]
        return found

    def prove_arrival(self) -> None:
        """Raise ``RuntimeError`` unless B's memory equals A's."""
        wrong = np.flatnonzero(self.at_a != self.at_b)
        if wrong.size:
            raise RuntimeError(f"{wrong.size} pages differ between A and B, the first is page {wrong[0]}")

    def upcoming(self, us: int):
        """Return the writes of the next `us` of guest time, as a workload does."""
        times, pages = self.workload.writes(self.now, self.now + us)
        return times[self.made :], pages[self.made :]

    def _execute(self, us: int):
        """Advance the guest, log its writes, and return when (µs after the start) and where it wrote."""
        times, pages = self.upcoming(us)
        cost, granule, batch = self.tracking
        granules = pages // granule if granule > 1 else pages
        if not cost:
            self._log[granules] = True
            when = times - self.now
            self.now += us
            return when, pages

        first = np.zeros(times.size, np.int64)
        new = np.flatnonzero(~self._log[granules])
        first[new[np.unique(granules[new], return_index=True)[1]]] = 1
        logged = self._logged + np.cumsum(first)
        stalled = self._stall + logged // batch * cost  # a write waits for its own notice
        when = times - self.now + stalled
        done = int(np.searchsorted(when, us))
        self._log[granules[:done]] = True
        waited = int(stalled[done - 1]) if done else self._stall
        self._logged = int(logged[done - 1]) % batch if done else self._logged
        ran = max(us - waited, 0)
        self._stall = max(waited - us, 0)
        if done < times.size and ran > times[done] - self.now:  # the clock ran out while the next write waited
            ran = int(times[done]) - self.now
            self._stall = int(when[done]) - us
            self._logged = 0
            # The write is made after the wait, without another: it has been noticed.
            self._log[granules[done]] = True
        self.now += ran
        self.made = int((times[:done] == self.now).sum()) + (0 if ran else self.made)
        return when[:done], pages[:done]


def stop_and_copy(workload, pages: int, bandwidth: int, activation_us: int = 0) -> list[Round]:
    """Stop the guest, send all its memory, start it on B.

    `pages` of 4 KiB, `bandwidth` in bytes a second.

    >>> from vlib.workloads import Idle
    >>> downtime(stop_and_copy(Idle(), pages=131072, bandwidth=128 * MBIT))  # 512 MiB at 128 Mbit/s
    33554432
    """
    check_link(bandwidth, activation_us)
    guest = Guest(workload, pages)
    return _finish(guest, [], guest.memory, 0, bandwidth, activation_us)


def precopy(
    workload, pages: int, bandwidth: int, rule, activation_us: int = 0, tracking: Tracking = FREE
) -> list[Round]:
    """Send memory round by round while the guest runs, then stop it and send the rest.

    Round 1 sends every page, each later round the pages that were dirtied during the one before; `rule` (see
    `stop_rules`) paces the rounds and ends them; after ``MAX_ROUNDS`` they end in any case. `pages` of 4 KiB,
    `bandwidth` in bytes a second [Clark05].

    >>> from vlib.workloads import Sweep
    >>> from vlib.stop_rules import Rounds
    >>> trace = precopy(Sweep(pages=100, rate=1000), 1000, bandwidth=10_000 * PAGE, rule=Rounds(goal=5))
    >>> [(r.sent, r.left) for r in trace]
    [(1000, 100), (100, 10), (10, 1), (1, 0)]
    """
    check_link(bandwidth, activation_us)
    guest = Guest(workload, pages, tracking)
    trace, clock = [], 0
    todo = guest.memory
    streak = np.zeros(pages if rule.hold_after else 0, np.int32)  # rounds in a row in which a page was dirtied
    held = np.zeros(streak.size, bool)  # pages that wait for the stop
    while True:
        rate = min(rule.rate(trace), bandwidth)
        check_range("the rate of the rule", rate, 1)
        start, began, sent = clock, guest.now, 0
        for batch in _batches(todo, rule.peek):
            if rule.peek:
                batch = batch[~guest.is_dirty(batch)]
            us = transfer_us(batch.size * PAGE, rate)
            guest.run(us, batch)
            clock, sent = clock + us, sent + batch.size
        dirty = left = guest.dirty()
        skipped, ran = todo.size - sent, guest.now - began
        todo = dirty
        if rule.hold_after:
            in_a_row = streak[dirty] + 1
            streak[:] = 0
            streak[dirty] = in_a_row
            held[dirty[in_a_row >= rule.hold_after]] = True
            todo = dirty[~held[dirty]]
            left = np.union1d(np.flatnonzero(held), dirty)
        this = Round(start, clock, "pre-copy", rate, sent, sent * PAGE, skipped, dirty.size, left.size, ran)
        why = rule.stop([*trace, this], todo.size) or ("endless" if len(trace) + 1 == MAX_ROUNDS else "")
        trace.append(this._replace(why=why))
        if why:
            return _finish(guest, trace, left, clock, bandwidth, activation_us)


def check_link(bandwidth: int, activation_us: int) -> None:
    """Raise ``ValueError`` unless a link of this bandwidth can exist."""
    check_range("bandwidth", bandwidth, 1)
    check_range("activation_us", activation_us, 0)


def _batches(pages, size):
    """Return all pages at once, or batches of `size` in a pseudo-random order, the same each time [Clark05]."""
    if not size:
        return [pages]
    pages = pages[np.random.default_rng(0).permutation(pages.size)]
    return [pages[at : at + size] for at in range(0, pages.size, size)]


def _finish(guest, trace, left, clock, bandwidth, activation_us):
    """Send what is left while no one runs, start the guest on B, and prove that B has all of its memory."""
    guest.send(left)
    guest.prove_arrival()
    size = left.size * PAGE
    end = clock + transfer_us(size, bandwidth)
    trace.append(Round(clock, end, "stop-and-copy", bandwidth, left.size, size, 0, 0, 0, 0))
    if activation_us:
        trace.append(Round(end, end + activation_us, "activation", bandwidth, 0, 0, 0, 0, 0, 0))
    return trace


def total_time(trace: list) -> int:
    """Return the µs from the start of a migration to its end.

    >>> total_time([Round(0, 70, "pre-copy", 1, 1, 1, 0, 0, 1, 70), Round(70, 90, "stop-and-copy", 1, 1, 1, 0, 0, 0, 0)])
    90
    """
    return max(event.end for event in trace) - trace[0].start


def downtime(trace: list) -> int:
    """Return the µs during which neither host ran the guest.

    >>> downtime([Round(0, 70, "pre-copy", 1, 1, 1, 0, 0, 1, 70), Round(70, 90, "stop-and-copy", 1, 1, 1, 0, 0, 0, 0)])
    20
    """
    return sum(event.end - event.start for event in trace if event.phase in ("stop-and-copy", "activation"))


def bytes_sent(trace: list) -> int:
    """Return the bytes that went over the link."""
    return sum(event.bytes for event in trace)


def rounds(trace: list) -> int:
    """Return the number of pre-copy rounds."""
    return sum(event.phase == "pre-copy" for event in trace)


def plateau(trace: list, patience: int = 3) -> int | None:
    """Return the pages left, on average, in the last `patience` rounds if none of these was a new minimum, else None.

    Rounds that no longer shrink are how a migration fails to converge: with writes uniform over a working set of W
    pages at q times the bandwidth, the pages left approach the W·x with ``x = 1 - exp(-q * x)``.

    >>> from vlib.stop_rules import Rounds
    >>> from vlib.workloads import Uniform
    >>> trace = precopy(Uniform(pages=10_000, rate=20_000), 20_000, bandwidth=10_000 * PAGE, rule=Rounds())
    >>> trace[-2].why, round(plateau(trace) / 10_000, 2)
    ('plateau', 0.8)
    """
    check_range("patience", patience, 1)
    left = [event.left for event in trace if event.phase == "pre-copy"]
    if len(left) <= patience or min(left[-patience:]) < min(left[:-patience]):
        return None
    return sum(left[-patience:]) // patience
