"""What the clients of a guest see while it is migrated: its throughput over time, and an outage longer than the downtime."""

import numpy as np

from vlib.postcopy import Fault
from vlib.workloads import check_range


def throughput(trace: list, bin_us: int, until: int) -> np.ndarray:
    """Return for each bin of `bin_us` up to `until` (µs) the share of its time in which the guest executed.

    Before and after the migration the guest has all of it; within a pre-copy round the cost of tracking its writes is
    spread evenly. A bin that would end after `until` is left out.

    >>> from vlib.migration import Round
    >>> trace = [Round(0, 20, "pre-copy", 1, 1, 1, 0, 0, 1, 15), Round(20, 30, "stop-and-copy", 1, 1, 1, 0, 0, 0, 0)]
    >>> throughput(trace, bin_us=10, until=40).tolist()
    [0.75, 0.75, 0.0, 1.0]
    """
    check_range("bin_us", bin_us, 1)
    check_range("until", until, bin_us)
    edges = np.arange(0, until - until % bin_us + 1, bin_us)
    times, lost = [0], [0.0]  # µs lost until each time
    for event in sorted(trace, key=lambda event: event.start):
        if isinstance(event, Fault) or event.phase != "post-copy":  # post-copy stalls the guest in its faults only
            ran = 0 if isinstance(event, Fault) else event.ran
            times += [event.start, event.end]
            lost += [lost[-1], lost[-1] + event.end - event.start - ran]
    return 1 - np.diff(np.interp(edges, times, lost)) / bin_us


def outage(trace: list, timeout_us: int = 200_000, unreachable_us: int = 0) -> int:
    """Return how long a client waits whose segment is the first to be lost, in µs.

    The sender repeats the segment after a time-out, and doubles the time-out at each repetition (TCP). The repetition
    succeeds only when the guest runs again and, for `unreachable_us` more, the network sends its frames to the right
    port: a switch does not know where the guest is until it has seen a frame from there.

    >>> from vlib.migration import Round
    >>> outage([Round(0, 210_000, "stop-and-copy", 1, 1, 1, 0, 0, 0, 0)], timeout_us=200_000)
    600000
    """
    check_range("timeout_us", timeout_us, 1)
    check_range("unreachable_us", unreachable_us, 0)
    stopped = [event for event in trace if event.phase in ("stop-and-copy", "activation")]
    away = stopped[-1].end - stopped[0].start + unreachable_us if stopped else 0
    waited, timeout = 0, timeout_us
    while waited < away:
        waited, timeout = waited + timeout, 2 * timeout
    return waited
