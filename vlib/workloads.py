"""Guests as writers of pages: which page of its memory a guest writes, and when.

A workload is asked for the writes of any span of guest time. The answer for a span never depends on how the span is
cut, so every migration scheme can be run on one and the same guest. The k-th write of a workload comes at
``k * 1_000_000 // rate`` µs of guest time, and a random page is a hash of the seed and k: nothing is stored.
"""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np

PAGE = 4096  # bytes
SECOND = 1_000_000  # µs

Writes = tuple[np.ndarray, np.ndarray]  # times (µs of guest time, ascending) and page numbers, both int64


def check_range(name: str, value, low, high=None) -> None:
    """Raise ``ValueError`` unless the value is a whole number and ``low <= value <= high``.

    >>> check_range("rate", -3, 0)
    Traceback (most recent call last):
    ValueError: rate is -3, allowed: whole numbers, 0 or more
    """
    if not isinstance(value, Integral) or value < low or (high is not None and value > high):
        allowed = f"{low} or more" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} is {value}, allowed: whole numbers, {allowed}")


def _hash(seed: int, k: np.ndarray) -> np.ndarray:
    """Mix the seed and the number of a write into 64 random bits (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = (k.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(2**32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class _Steady:
    """A guest that writes at an even pace into ``pages`` pages from page ``first`` on."""

    pages: int
    rate: int  # writes a second
    first: int = 0

    def __post_init__(self):
        check_range("pages", self.pages, 1, 2**32)
        check_range("rate", self.rate, 0)
        check_range("first", self.first, 0)

    @property
    def end(self) -> int:
        """Return the first page number that is never written."""
        return self.first + self.pages

    def writes(self, start: int, end: int) -> Writes:
        """Return the writes with ``start <= time < end`` (µs of guest time)."""
        if self.rate == 0:
            return _NOTHING
        check_range("end", end, start, (2**63 - 1) // self.rate)  # later numbers do not fit into 64 bits
        k = np.arange(-(-start * self.rate // SECOND), -(-end * self.rate // SECOND))
        return k * SECOND // self.rate, self.first + self._page(k)


@dataclass(frozen=True)
class Uniform(_Steady):
    """Write every page of the working set with equal chance.

    >>> Uniform(pages=1000, rate=4).writes(0, 1_000_000)[0].tolist()
    [0, 250000, 500000, 750000]
    """

    seed: int = 0

    def _page(self, k):
        return ((_hash(self.seed, k) >> np.uint64(32)) * np.uint64(self.pages) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Zipf(_Steady):
    """Write hot pages often and cold ones seldom: the i-th hottest page with weight ``i ** -skew``.

    >>> page = Zipf(pages=100, rate=1000, skew=1.0).writes(0, 1_000_000)[1]
    >>> bool((page < 10).mean() > 0.5)
    True
    """

    skew: float = 1.0
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.skew < float("inf"):
            raise ValueError(f"skew is {self.skew}, allowed: 0 or more")

    @cached_property
    def _share(self):
        weight = np.arange(1, self.pages + 1, dtype=float) ** -self.skew
        return np.cumsum(weight) / weight.sum()

    def _page(self, k):
        chance = (_hash(self.seed, k) >> np.uint64(11)) * 2.0**-53
        return np.minimum(np.searchsorted(self._share, chance, side="right"), self.pages - 1)


@dataclass(frozen=True)
class Sweep(_Steady):
    """Write the working set page after page, and begin again.

    >>> Sweep(pages=3, rate=1_000_000).writes(0, 5)[1].tolist()
    [0, 1, 2, 0, 1]
    """

    def _page(self, k):
        return k % self.pages


@dataclass(frozen=True)
class Idle:
    """Write nothing."""

    end = 0

    def writes(self, start: int, end: int) -> Writes:
        """Return no writes."""
        return _NOTHING


@dataclass(frozen=True)
class Mix:
    """Run several workloads at once.

    >>> Mix((Sweep(10, 2), Sweep(10, 2, first=10))).writes(0, 1_000_000)[1].tolist()
    [0, 10, 1, 11]
    """

    parts: tuple

    @property
    def end(self) -> int:
        """Return the first page number that is never written."""
        return max((part.end for part in self.parts), default=0)

    def writes(self, start: int, end: int) -> Writes:
        """Return the writes with ``start <= time < end``, in order of time."""
        times, pages = _join([part.writes(start, end) for part in self.parts])
        order = np.argsort(times, kind="stable")
        return times[order], pages[order]


@dataclass(frozen=True)
class Phases:
    """Run one workload after another, each for its time, over and over.

    ``parts`` are pairs (duration in µs, workload).

    >>> calm_then_busy = Phases(((1_000_000, Idle()), (1_000_000, Sweep(pages=8, rate=2))))
    >>> calm_then_busy.writes(0, 4_000_000)[0].tolist()
    [1000000, 1500000, 3000000, 3500000]
    """

    parts: tuple

    def __post_init__(self):
        if not self.parts:
            raise ValueError("parts is empty, allowed: one phase or more")
        for duration, _ in self.parts:
            check_range("duration", duration, 1)

    @property
    def end(self) -> int:
        """Return the first page number that is never written."""
        return max(workload.end for _, workload in self.parts)

    def writes(self, start: int, end: int) -> Writes:
        """Return the writes with ``start <= time < end`` (µs of guest time)."""
        period = sum(duration for duration, _ in self.parts)
        found, at = [], start - start % period
        while at < end:
            for duration, workload in self.parts:
                if at + duration > start and at < end:
                    found.append(workload.writes(max(at, start), min(at + duration, end)))
                at += duration
        return _join(found)


@dataclass(frozen=True)
class Later:
    """Look at a workload that has been running for `by` µs already.

    >>> Later(Sweep(pages=8, rate=1), by=3_000_000).writes(0, 1_000_000)[1].tolist()
    [3]
    """

    workload: object
    by: int

    def __post_init__(self):
        check_range("by", self.by, 0)

    @property
    def end(self) -> int:
        """Return the first page number that is never written."""
        return self.workload.end

    def writes(self, start: int, end: int) -> Writes:
        """Return the writes with ``start <= time < end`` (µs of guest time)."""
        times, pages = self.workload.writes(start + self.by, end + self.by)
        return times - self.by, pages


class Recorded:
    """Replay writes that were recorded: ``times`` in µs, ascending, and ``pages``; after the last one, silence.

    >>> Recorded([0, 7, 9], [3, 1, 3]).writes(5, 9)[1].tolist()
    [1]
    """

    def __init__(self, times, pages):
        self.times, self.pages = _whole_numbers("times", times), _whole_numbers("pages", pages)
        if self.times.size != self.pages.size:
            raise ValueError(f"pages has {self.pages.size} numbers, allowed: {self.times.size}, as many as times")
        back = np.flatnonzero(np.diff(self.times) < 0)
        if back.size:
            before, after = self.times[back[0] : back[0] + 2]
            raise ValueError(f"times has {after} after {before}, allowed: ascending")

    @property
    def end(self) -> int:
        """Return the first page number that is never written."""
        return int(self.pages.max(initial=-1)) + 1

    def writes(self, start: int, end: int) -> Writes:
        """Return the writes with ``start <= time < end`` (µs of guest time)."""
        span = slice(*np.searchsorted(self.times, (start, end)))
        return self.times[span], self.pages[span]

    @classmethod
    def load(cls, path) -> "Recorded":
        """Read a text file with a time (µs) and a page number, separated by a comma, on each line."""
        try:
            table = np.loadtxt(Path(path), delimiter=",", dtype=np.int64, ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path} is not a recorded trace (time,page on each line): {error}") from None
        if table.size and table.shape[1] != 2:
            raise ValueError(f"{path} has {table.shape[1]} columns, allowed: 2 (time,page)")
        return cls(*table.reshape(-1, 2).T)


def _whole_numbers(name, values):
    row = np.asarray(values)
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} is an array of {row.ndim} dimensions of {row.dtype}, allowed: one row of whole numbers"
        )
    if row.size:
        check_range(f"the least of {name}", row.min(), 0)
    return row.astype(np.int64)


_NOTHING: Writes = (np.empty(0, np.int64), np.empty(0, np.int64))


def _join(found: list[Writes]) -> Writes:
    if not found:
        return _NOTHING
    return np.concatenate([times for times, _ in found]), np.concatenate([pages for _, pages in found])
