"""When pre-copy should stop: the rules of real hypervisors, by name.

A rule says how fast the next round goes (``rate``), whether the guest is to be stopped now (``stop``: a reason, or ""),
how many pages are looked at together before they are sent (``peek``; 0: pages are sent unseen), and after how many rounds
in a row a dirtied page is held back for the stop (``hold_after``; 0: never).
"""

from dataclasses import dataclass

from vlib.migration import MBIT, plateau
from vlib.workloads import PAGE, SECOND, check_range


@dataclass(frozen=True)
class Rounds:
    """Stop when at most `goal` pages are left, or at a limit of rounds or of size, or on a plateau.

    `max_factor` limits what is sent to so many times the guest's memory; `patience` is the number of rounds without
    progress that count as a plateau. 0 switches a limit off.
    """

    goal: int = 50
    max_rounds: int = 0
    max_factor: int = 0
    patience: int = 3
    peek: int = 0
    hold_after: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            check_range(name, value, 0)

    def rate(self, trace) -> int:
        """Return the bytes a second for the next round: whatever the link gives."""
        return 2**62

    def stop(self, trace, sendable: int) -> str:
        """Return why to stop now, or the empty string."""
        memory = trace[0].sent + trace[0].skipped
        if sendable <= self.goal:
            return "little left"
        if self.max_rounds and len(trace) >= self.max_rounds:
            return "round limit"
        if self.max_factor and sum(r.sent for r in trace) > self.max_factor * memory:
            return "size limit"
        if self.patience and plateau(trace, self.patience) is not None:
            return "plateau"
        return ""


# The limits in Xen's code of 2005 (30 rounds, the last with the guest stopped) and in today's libxenguest, which no
# longer peeks [Xen-git]. Both send the fewer than 50 pages once more before they stop the guest, and the code of 2005
# also stops when a round at full rate sent more than the one before: neither is modelled.
XEN_2005 = Rounds(goal=49, max_rounds=29, max_factor=3, patience=0, peek=1024)
XEN_TODAY = Rounds(goal=49, max_rounds=5, patience=0)

# Pages that were dirtied in two rounds in a row are taken for the writable working set: they wait for the stop [Clark05].
SKIP_WORKING_SET = Rounds(hold_after=2)


@dataclass(frozen=True)
class Adaptive:
    """Follow the dirty rate: each round goes `step` faster than pages were dirtied during the one before [Clark05].

    The guest is stopped when that would exceed `high`, when less than `goal` bytes are left, or after `max_rounds`: a
    link slower than the rule asks for might never catch up. What is left then goes at the full bandwidth of the link.

    >>> from vlib.migration import precopy
    >>> from vlib.workloads import Uniform
    >>> trace = precopy(Uniform(pages=2000, rate=1500), 16384, 500 * MBIT, Adaptive())
    >>> [r.rate // MBIT for r in trace]
    [100, 63, 86, 93, 96, 99, 500]
    """

    low: int = 100 * MBIT  # bytes a second
    step: int = 50 * MBIT
    high: int = 500 * MBIT
    goal: int = 256 * 1024  # bytes
    max_rounds: int = 29
    peek: int = 1024
    hold_after: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            check_range(name, value, 0 if name in ("peek", "hold_after") else 1)

    def rate(self, trace) -> int:
        """Return the bytes a second for the next round."""
        if not trace:
            return self.low
        last = trace[-1]
        return last.dirtied * PAGE * SECOND // max(last.end - last.start, 1) + self.step

    def stop(self, trace, sendable: int) -> str:
        """Return why to stop now, or the empty string."""
        if sendable * PAGE < self.goal:
            return "little left"
        if self.rate(trace) > self.high:
            return "too fast"
        if len(trace) >= self.max_rounds:
            return "round limit"
        return ""
