"""Pre-copy as QEMU's migration thread does it: no rounds, but slots, a threshold, and one bitmap.

QEMU does not wait for the end of a round. As soon as what remains is below a threshold, it asks the dirty log and merges
what is freshly dirty with what is left over. If the sum is still below the threshold, the guest is stopped. The threshold
is what the bandwidth measured last would carry within the downtime limit. Facts from QEMU 7.2's `migration.c` and
`ram.c`; constants measured on its stream.
"""

import numpy as np

from vlib.migration import FREE, Guest, Round, Tracking, plateau, transfer_us
from vlib.workloads import PAGE, SECOND, check_range

PAGE_BYTES = PAGE + 8  # a page on the wire, with its header
ZERO_BYTES = 9  # a page of zeros: header and one byte
STATE_BYTES = 33_784  # devices, CPU and block list of a guest without devices (measured)
SLOT_US = 100_000  # the bandwidth limit is a budget for each slot, and the bandwidth is measured over it
LOOK_US = 50_000  # without a limit, QEMU sends for so long before it looks at what remains
LOOK_PAGES = 64  # ... but looks at the clock only after so many pages
ZERO_NS = 330  # to read a page and find only zeros (measured)


def qemu_precopy(
    workload,
    pages: int,
    bandwidth: int,
    downtime_limit: int = 300_000,
    max_bandwidth: int = 0,
    filled: int | None = None,
    patience: int = 50,
    tracking: Tracking = FREE,
    setup: int = 0,
) -> list[Round]:
    """Migrate under QEMU's rules.

    `pages` of 4 KiB of which the first `filled` (default: all) are not zero; `bandwidth` of the link and `max_bandwidth`
    (QEMU's parameter; 0: no limit of its own) in bytes a second; `downtime_limit` in µs. Each ``Round`` of the trace is
    the time between two looks at the dirty log. If there was no progress in `patience` of them the run is given up: the
    last round says "plateau", and there is no stop-and-copy, since QEMU itself would go on for ever.
    `setup` µs go by before the first page is sent, while the log is read for the first time; they belong to the first
    slot. (Measured: 0.9 µs for each page of memory, if the guest is emulated.)

    >>> from vlib.workloads import Uniform
    >>> MIB = 2**20
    >>> trace = qemu_precopy(Uniform(4096, rate=2000), 32768, 32 * MIB, downtime_limit=100_000)
    >>> [(r.phase, r.left) for r in trace]
    [('pre-copy', 4048), ('pre-copy', 1174), ('pre-copy', 817), ('pre-copy', 817), ('stop-and-copy', 0)]
    """
    guest = Guest(workload, pages, tracking)
    filled = pages if filled is None else filled
    check_range("filled", filled, 0, pages)
    check_range("bandwidth", bandwidth, 1)
    check_range("downtime_limit", downtime_limit, 1)
    check_range("max_bandwidth", max_bandwidth, 0)
    check_range("patience", patience, 1)
    check_range("setup", setup, 0)
    limited = 0 < max_bandwidth < bandwidth
    budget = max_bandwidth * SLOT_US // SECOND

    guest.run(setup)  # what is written meanwhile is dirty again, though all of memory is still to be sent
    trace, clock = [], setup
    todo = np.arange(pages)
    scan = 0  # QEMU goes on scanning where it is, also after it has asked the log
    threshold = 0  # bytes; nothing has been measured yet
    slot_start = slot_bytes = 0
    began, began_guest, sent, size = 0, 0, 0, 0  # of this round
    while True:
        if todo.size * PAGE < threshold:
            fresh = guest.dirty()
            todo = np.union1d(todo, fresh)
            todo = np.roll(todo, -int(np.searchsorted(todo, scan)))
            trace.append(
                Round(began, clock, "pre-copy", max_bandwidth if limited else bandwidth, sent, size, 0, fresh.size,
                      todo.size, guest.now - began_guest)
            )  # fmt: skip
            began, began_guest, sent, size = clock, guest.now, 0, 0
            if plateau(trace, patience) is not None:
                trace[-1] = trace[-1]._replace(why="plateau")
                return trace
        if not todo.size or todo.size * PAGE < threshold:
            break

        # The rest of this slot's budget goes out in one burst, as fast as the link carries it; then QEMU waits.
        room = bandwidth * LOOK_US // SECOND
        if limited:
            room = min(room, budget - slot_bytes)
        head = todo[: room // ZERO_BYTES + LOOK_PAGES]  # more than that cannot go
        on_wire = _bytes_on_wire(guest, head, filled)
        total = np.cumsum(on_wire)
        n = int(np.searchsorted(total, room)) + 1
        if not limited:
            n = -(-n // LOOK_PAGES) * LOOK_PAGES
        n = min(n, todo.size)
        batch, todo, batch_bytes = todo[:n], todo[n:], int(total[n - 1])
        scan = int(batch[-1]) + 1
        sent, size, slot_bytes = sent + n, size + batch_bytes, slot_bytes + batch_bytes
        zeros = int(np.count_nonzero(on_wire[:n] == ZERO_BYTES))
        us = max(transfer_us(batch_bytes, bandwidth), zeros * ZERO_NS // 1000)
        guest.run(us, batch)
        clock += us
        if limited and slot_bytes >= budget:
            us = max(0, slot_start + SLOT_US - clock)
            guest.run(us)
            clock += us
        if clock - slot_start >= SLOT_US:
            threshold = slot_bytes * downtime_limit // (clock - slot_start)
            slot_start, slot_bytes = clock, 0

    rate = max_bandwidth if limited else bandwidth
    trace.append(
        Round(began, clock, "pre-copy", rate, sent, size, 0, 0, todo.size, guest.now - began_guest, "little left")
    )
    last = np.union1d(todo, guest.dirty())
    rest = int(_bytes_on_wire(guest, last, filled).sum()) + STATE_BYTES
    end = clock + transfer_us(rest, bandwidth)
    guest.send(last)
    guest.prove_arrival()
    trace.append(Round(clock, end, "stop-and-copy", bandwidth, last.size, rest, 0, 0, 0, 0))
    return trace


def _bytes_on_wire(guest, pages, filled):
    return np.where((pages >= filled) & (guest.at_a[pages] == 0), ZERO_BYTES, PAGE_BYTES)
