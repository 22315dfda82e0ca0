"""Migration page by page in plain Python: slow, and meant to be believed by reading.

Nothing here is an array. Memory is a list of versions, the dirty log a set, and the guest's writes a list of
``(time, page)``. The functions have the names and the parameters of the models that they check.
"""

from collections import deque
from fractions import Fraction
from math import ceil

import numpy as np

from vlib.migration import Round
from vlib.postcopy import Fault

PAGE = 4096
SECOND = 1_000_000


# Workloads


def hash64(seed, k):
    mask = 2**64 - 1
    x = (k + seed * 2**32) * 0x9E3779B97F4A7C15 & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def steady(rate, page, start, end):
    """List the writes of a guest whose k-th write goes to page(k)."""
    found, k = [], 0
    while rate and k * SECOND // rate < end:
        if k * SECOND // rate >= start:
            found.append((k * SECOND // rate, page(k)))
        k += 1
    return found


def uniform(pages, rate, first, seed, start, end):
    return steady(rate, lambda k: first + (hash64(seed, k) >> 32) * pages // 2**32, start, end)


def sweep(pages, rate, first, start, end):
    return steady(rate, lambda k: first + k % pages, start, end)


def phases(parts, start, end):
    """Keep of each part's writes those that fall into its turn."""
    found = []
    for number, (_, workload) in enumerate(parts):
        for time, page in pairs(workload, start, end):
            into = time % sum(duration for duration, _ in parts)
            turn = 0
            while into >= parts[turn][0]:
                into -= parts[turn][0]
                turn += 1
            if turn == number:
                found.append((time, page))
    return sorted(found, key=lambda write: write[0])


def pairs(workload, start, end):
    times, pages = workload.writes(start, end)
    return list(zip(times.tolist(), pages.tolist(), strict=True))


# Pre-copy


def transfer_us(size, rate):
    return ceil(Fraction(size * SECOND, rate))


class Guest:
    """A guest on A whose wall clock is advanced from one event to the next."""

    def __init__(self, workload, pages, tracking, horizon):
        self.writes, self.horizon = deque(pairs(workload, 0, horizon)), horizon
        self.cost, self.granule, self.batch = tracking
        self.a, self.b = [0] * pages, [None] * pages
        self.log = set()  # granules
        self.now = self.stall = self.noticed = self.notices = 0

    def run(self, us, leaving=()):
        assert self.now + us <= self.horizon
        before, offset, read = self.now, 0, 0

        def read_until(time):
            nonlocal read
            while read < len(leaving) and read * us // len(leaving) <= time:
                self.b[leaving[read]] = self.a[leaving[read]]
                read += 1

        while self.writes:
            time, page = self.writes[0]
            at = offset + self.stall + time - self.now  # when the guest comes to this write
            if at >= us:
                break
            offset, self.now, self.stall = at, time, 0
            if page // self.granule not in self.log:
                self.log.add(page // self.granule)
                self.noticed += 1
                if self.noticed == self.batch:
                    self.noticed, self.stall = 0, self.cost
                    self.notices += 1
                if self.stall:
                    continue  # and try again after the stall
            read_until(at)
            self.a[page] += 1
            self.writes.popleft()
        stalled = min(self.stall, us - offset)
        self.stall -= stalled
        self.now += us - offset - stalled
        read_until(us)
        return self.now - before

    def send(self, pages):
        for page in pages:
            self.b[page] = self.a[page]

    def dirty(self):
        granules, self.log = sorted(self.log), set()
        return [p for g in granules for p in range(g * self.granule, (g + 1) * self.granule) if p < len(self.a)]


def precopy(workload, pages, bandwidth, rule, activation_us, tracking, horizon):
    guest = Guest(workload, pages, tracking, horizon)
    trace, clock, todo = [], 0, list(range(pages))
    streak, held = [0] * pages, set()
    while True:
        rate = min(rule.rate(trace), bandwidth)
        start, ran, sent = clock, 0, 0
        order = todo
        if rule.peek:
            order = [todo[i] for i in np.random.default_rng(0).permutation(len(todo)).tolist()]
        while order:
            batch, order = (order[: rule.peek], order[rule.peek :]) if rule.peek else (order, [])
            if rule.peek:
                batch = [page for page in batch if page // guest.granule not in guest.log]
            us = transfer_us(len(batch) * PAGE, rate)
            ran += guest.run(us, batch)
            clock += us
            sent += len(batch)
        dirty = guest.dirty()
        skipped, todo, left = len(todo) - sent, dirty, len(dirty)
        if rule.hold_after:
            streak = [streak[page] + 1 if page in set(dirty) else 0 for page in range(pages)]
            held |= {page for page in range(pages) if streak[page] >= rule.hold_after}
            todo = [page for page in dirty if page not in held]
            left = len(held | set(dirty))
        this = Round(start, clock, "pre-copy", rate, sent, sent * PAGE, skipped, len(dirty), left, ran)
        why = rule.stop([*trace, this], len(todo))
        trace.append(this._replace(why=why))
        if why:
            break
    last = held | set(dirty)
    guest.send(last)
    assert guest.a == guest.b
    end = clock + transfer_us(len(last) * PAGE, bandwidth)
    trace.append(Round(clock, end, "stop-and-copy", bandwidth, len(last), len(last) * PAGE, 0, 0, 0, 0))
    if activation_us:
        trace.append(Round(end, end + activation_us, "activation", bandwidth, 0, 0, 0, 0, 0, 0))
    return trace


def qemu_precopy(workload, pages, bandwidth, downtime_limit, max_bandwidth, filled, patience, tracking, setup, horizon):
    guest = Guest(workload, pages, tracking, horizon)
    limited = 0 < max_bandwidth < bandwidth
    rate = max_bandwidth if limited else bandwidth

    def cost(page):
        return 9 if page >= filled and guest.a[page] == 0 else 4104

    trace, todo, scan, threshold = [], list(range(pages)), 0, 0
    slot_start = slot_bytes = began = sent = size = 0
    clock, ran = setup, guest.run(setup)
    while True:
        if len(todo) * PAGE < threshold:
            fresh = guest.dirty()
            union = sorted(set(todo) | set(fresh))
            todo = [page for page in union if page >= scan] + [page for page in union if page < scan]
            trace.append(Round(began, clock, "pre-copy", rate, sent, size, 0, len(fresh), len(todo), ran))
            began, ran, sent, size = clock, 0, 0, 0
            left = [r.left for r in trace]
            if len(left) > patience and min(left[-patience:]) >= min(left[:-patience]):
                trace[-1] = trace[-1]._replace(why="plateau")
                return trace
        if not todo or len(todo) * PAGE < threshold:
            break
        batch, batch_bytes = [], 0
        costs = {page: cost(page) for page in todo}
        while todo:
            if limited and slot_bytes + batch_bytes >= max_bandwidth * 100_000 // SECOND and batch:
                break
            if limited and batch_bytes >= bandwidth * 50_000 // SECOND and batch:
                break
            if not limited and len(batch) % 64 == 0 and batch and batch_bytes >= bandwidth * 50_000 // SECOND:
                break
            page = todo.pop(0)
            batch.append(page)
            batch_bytes += costs[page]
        scan = batch[-1] + 1
        sent, size, slot_bytes = sent + len(batch), size + batch_bytes, slot_bytes + batch_bytes
        us = max(transfer_us(batch_bytes, bandwidth), sum(costs[page] == 9 for page in batch) * 330 // 1000)
        ran += guest.run(us, batch)
        clock += us
        if limited and slot_bytes >= max_bandwidth * 100_000 // SECOND:
            us = max(0, slot_start + 100_000 - clock)
            ran += guest.run(us)
            clock += us
        if clock - slot_start >= 100_000:
            threshold = slot_bytes * downtime_limit // (clock - slot_start)
            slot_start, slot_bytes = clock, 0
    trace.append(Round(began, clock, "pre-copy", rate, sent, size, 0, 0, len(todo), ran, "little left"))
    last = set(todo) | set(guest.dirty())
    rest = sum(cost(page) for page in last) + 33_784
    guest.send(last)
    assert guest.a == guest.b
    end = clock + transfer_us(rest, bandwidth)
    trace.append(Round(clock, end, "stop-and-copy", bandwidth, len(last), rest, 0, 0, 0, 0))
    return trace


# Post-copy


class Push:
    """The first unsent page."""

    def fault(self, page):
        pass

    def take(self, n, unsent):
        return [page for page in range(len(unsent)) if unsent[page]][:n]


class Prepaging:
    """Edges take turns, and look `turns` pages ahead; then twice as many."""

    def __init__(self, pivots):
        self.pivots, self.edges, self.ahead, self.plan, self.turns = pivots, [(0, 1)], [(0, 1)], [], 8

    def fault(self, page):
        self.edges = [(page, 1), (page, -1), *self.edges][: 2 * self.pivots]
        self.ahead, self.plan, self.turns = self.edges, [], 8

    def take(self, n, unsent):
        found = []
        while len(found) < n:
            if not self.plan and not self.make_plan(unsent):
                break
            page = self.plan.pop(0)
            unsent[page] = False
            found.append(page)
        return found

    def make_plan(self, unsent):
        ways = []
        for at, step in self.ahead:
            way = [p for p in range(at, len(unsent) if step > 0 else -1, step) if unsent[p]][: self.turns]
            if way and (way[0], step) not in [(other[0], way_step) for other, way_step in ways]:
                ways.append((way, step))
        if not ways:
            way = [p for p in range(len(unsent)) if unsent[p]][: self.turns]
            if not way:
                return False
            ways = [(way, 1)]
        self.edges = [(way[0], step) for way, step in ways]
        self.ahead = [(way[-1] + step, step) for way, step in ways]
        for turn in range(self.turns):
            for way, _ in ways:
                if turn < len(way) and way[turn] not in self.plan:
                    self.plan.append(way[turn])
        self.turns = min(2 * self.turns, 2**14)
        return True


class Link:
    """A's side of the link, one page at a time, with exact times."""

    def __init__(self, guest, unsent, start, bandwidth, latency, pager):
        self.guest, self.unsent, self.pager, self.latency = guest, unsent, pager, latency
        self.page_us = Fraction(PAGE * SECOND, bandwidth)
        self.free = Fraction(start)
        self.arrival = {page: 0 for page, is_unsent in enumerate(unsent) if not is_unsent}
        self.sent, self.last = 0, 0

    def advance(self, time):
        while self.free < time and any(self.unsent):
            chosen = self.pager.take(1, list(self.unsent))
            if len(chosen) == 0:
                break
            self.send(chosen[0])
        self.free = max(self.free, Fraction(time))

    def send(self, page):
        assert self.unsent[page]
        self.free += self.page_us
        self.arrival[page] = self.last = ceil(self.free) + self.latency
        self.unsent[page] = False
        self.guest.send([page])
        self.sent += 1


def pull(guest, trace, unsent, clock, bandwidth, pager, latency, state_bytes, activation_us, horizon_us):
    up = clock + transfer_us(state_bytes, bandwidth) + latency
    trace.append(Round(clock, up, "stop-and-copy", bandwidth, 0, state_bytes, 0, 0, sum(unsent), 0))
    if activation_us:
        trace.append(Round(up, up + activation_us, "activation", bandwidth, 0, 0, 0, 0, 0, 0))
        up += activation_us
    link = Link(guest, unsent, up, bandwidth, latency, pager)
    faults, waited, stayed = [], 0, list(guest.a)
    for time, page in guest.writes:
        if time >= guest.now + horizon_us:
            break
        at = up + time - guest.now + waited
        link.advance(at)
        if link.arrival.get(page, at + 1) > at:
            link.advance(at + latency)
            asked = page not in link.arrival
            if asked:
                link.send(page)
            pager.fault(page)
            there = link.arrival[page]
            faults.append(Fault(at, there, "post-copy", page, PAGE if asked else 0))
            waited += there - at
        guest.b[page] += 1
        stayed[page] += 1
    end = up + horizon_us + waited
    link.advance(end)
    left = sum(unsent)
    assert all(unsent[page] or guest.b[page] == stayed[page] for page in range(len(unsent)))
    if not left:
        end = max(link.last, up)
    pushed = link.sent - sum(fault.bytes > 0 for fault in faults)
    why = "left on A" if left else "all there"
    ran = end - up - waited
    trace.append(Round(up, end, "post-copy", bandwidth, pushed, pushed * PAGE, 0, 0, left, ran, why))
    return trace + faults


def postcopy(workload, pages, bandwidth, pager, latency, state_bytes, activation_us, horizon_us, tracking, horizon):
    guest = Guest(workload, pages, tracking, horizon)
    return pull(guest, [], [True] * pages, 0, bandwidth, pager, latency, state_bytes, activation_us, horizon_us)


def hybrid(workload, pages, bandwidth, pager, latency, state_bytes, activation_us, horizon_us, tracking, horizon):
    guest = Guest(workload, pages, tracking, horizon)
    us = transfer_us(pages * PAGE, bandwidth)
    ran = guest.run(us, list(range(pages)))
    dirty = set(guest.dirty())
    unsent = [page in dirty for page in range(pages)]
    count = len(dirty)
    first = Round(0, us, "pre-copy", bandwidth, pages, pages * PAGE, 0, count, count, ran, "one round")
    state_bytes += ceil(pages / 8)
    return pull(guest, [first], unsent, us, bandwidth, pager, latency, state_bytes, activation_us, horizon_us)
