"""The models beside reality: QEMU's measured migrations, and the rounds that Clark et al. published.

``python -m vlib.fidelity [POINTS]`` prints predicted beside measured for a file of measurements like
`bench/data/qemu-migrations.json`.
"""

import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

from vlib.costs import CLARK05_QUAKE, CLARK05_SPECWEB
from vlib.migration import MBIT, bytes_sent, downtime, precopy, total_time
from vlib.qemu_migration import qemu_precopy
from vlib.stop_rules import Adaptive, Rounds
from vlib.workloads import PAGE, SECOND, Later, Mix, Sweep, Uniform

POINTS = Path(__file__).parent.parent / "bench" / "data" / "qemu-migrations.json"
MIB = 2**20
LOOPBACK = 2**30  # bytes a second: two processes on one machine (measured: 1.05e9 on a quiet one)
SETUP_NS = 900  # for each page of memory, before an emulated guest's first page goes (measured)


class Row(NamedTuple):
    """One quantity of one measured migration: what the runs gave, and what the models say."""

    point: str
    quantity: str  # "converges", "total (s)", "MB" or "downtime (ms)"
    measured: tuple
    model: tuple  # of guests that differ in the seed or the phase of their writes
    textbook: float

    def error(self, value: float) -> float:
        """Return by how much a value lies outside the range of the runs, relative to the nearer end.

        >>> Row("P", "total (s)", (2.0, 2.2), (2.1,), 2.42).error(2.42)
        0.1
        """
        low, high = min(self.measured), max(self.measured)
        nearest = min(max(value, low), high)
        return round((value - nearest) / nearest, 4) if nearest else float(value != nearest)


def load(path=POINTS) -> list[dict]:
    """Return the measured points of a file; ``ValueError`` names what is missing.

    >>> [point["name"] for point in load()][:3]
    ['P1', 'P2', 'P3']
    """
    try:
        points = json.loads(Path(path).read_text(encoding="utf-8"))["points"]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of measured points: {type(error).__name__} {error}") from None
    if not isinstance(points, list) or not points:
        raise ValueError(f"{path}: points is {str(points)[:40]}, allowed: a list of one point or more")
    for number, point in enumerate(points, 1):
        wrong = _wrong(point) if isinstance(point, dict) else f"is {str(point)[:40]}, allowed: names with values"
        if wrong:
            name = point.get("name", number) if isinstance(point, dict) else number
            raise ValueError(f"{path}: point {name} {wrong}")
    return points


def _wrong(point: dict) -> str:
    """Return what is wrong with a point, or nothing."""
    if missing := NEEDED - set(point):
        return f"has no {min(missing)}"
    for key, (least, most) in LIMITS.items():
        if (
            not _number(point[key])
            or not least <= point[key] <= most
            or (key in WHOLE and isinstance(point[key], float))
        ):
            kind = "whole numbers" if key in WHOLE else "numbers"
            return f"has {key} {point[key]!r}, allowed: {kind}, {least:,} to {most:,}"
    pages = point["ram_mib"] * MIB // PAGE
    for key in ("filled_pages", "working_set_pages"):
        if point[key] > pages:
            return f"has {key} {point[key]!r}, allowed: 0 to the {pages} pages of its memory"
    if point["writes_per_s"] and not point["working_set_pages"]:
        return f"has working_set_pages 0, allowed: 1 or more for {point['writes_per_s']} writes/s"
    if point["pattern"] not in tuple(PATTERNS):
        return f"has pattern {point['pattern']!r}, allowed: {' or '.join(PATTERNS)}"
    series = [point[key] for key in point if key == "runs" or key.startswith(RELAY)]
    runs = [run for one in series for run in (one if isinstance(one, list) else [one])]
    if not runs or not all(isinstance(run, dict) and {"total_s", "sent_bytes"} <= set(run) for run in runs):
        return "needs runs, each with total_s and sent_bytes"
    for key in ("total_s", "sent_bytes", "downtime_ms"):
        for value in (run[key] for run in runs if run.get(key) is not None):
            if not _number(value) or value < 0:
                return f"has a run with {key} {value!r}, allowed: numbers, 0 or more"
    return ""


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


RELAY = "through_a_"  # keys of runs through a relay of the point's bandwidth
NEEDED = {
    *("name", "ram_mib", "filled_pages", "working_set_pages", "writes_per_s"),
    *("bandwidth_mib_s", "downtime_limit_ms", "pattern", "runs"),
}
# What can be asked of the models: memory to 1 TiB, which is as many pages as they number.
LIMITS = {
    **{"ram_mib": (1, 2**20), "filled_pages": (0, 2**28), "working_set_pages": (0, 2**28), "writes_per_s": (0, 10**9)},
    **{"bandwidth_mib_s": (0.001, 10**6), "downtime_limit_ms": (0, 10**7)},
}
WHOLE = ("ram_mib", "filled_pages", "working_set_pages", "writes_per_s")
PATTERNS = {"uniform": Uniform, "sequential": Sweep}


GUESTS = 5


def guests(point: dict) -> list:
    """Return the guest of a point with other random numbers, or, if it writes in sequence, at other moments of its sweep.

    >>> [guest.by for guest in guests({"pattern": "sequential", "working_set_pages": 10, "writes_per_s": 10})]
    [0, 200000, 400000, 600000, 800000]
    """
    pages, rate = max(point["working_set_pages"], 1), point["writes_per_s"]  # an idle guest writes to no page
    if point["pattern"] == "uniform":
        return [Uniform(pages, rate, seed=seed) for seed in range(GUESTS)]
    return [Later(Sweep(pages, rate), pages * SECOND * i // max(rate, 1) // GUESTS) for i in range(GUESTS)]


def qemu_rows(point: dict) -> list[Row]:
    """Return measured beside predicted for one point: limited by QEMU itself and, if measured, through a slow relay.

    >>> [row.quantity for row in qemu_rows(load()[0])][:3]
    ['converges', 'total (s)', 'MB']
    """
    pages, filled, limit = (
        point["ram_mib"] * MIB // PAGE,
        point["filled_pages"],
        round(point["downtime_limit_ms"] * 1000),
    )
    bandwidth = int(point["bandwidth_mib_s"] * MIB)
    setup = pages * SETUP_NS // 1000
    # The textbook knows no zero pages and no headers: its memory is what the guest has filled or writes.
    memory = max(filled, point["working_set_pages"])
    book = precopy(guests(point)[0], memory, bandwidth, Rounds(bandwidth * limit // SECOND // PAGE, patience=20))

    found = []
    for key, runs in point.items():
        if (key != "runs" and not key.startswith(RELAY)) or not runs:
            continue
        if key == "runs":
            traces = [qemu_precopy(g, pages, LOOPBACK, limit, bandwidth, filled, setup=setup) for g in guests(point)]
            label = point["name"]
        else:
            traces = [qemu_precopy(g, pages, bandwidth, limit, 0, filled, setup=setup) for g in guests(point)]
            label = point["name"] + " relay"
        found += _rows(label, runs, traces, book)
    return found


def _rows(label, runs, traces, book):
    completed = tuple(run.get("completed", True) for run in runs)
    # A run that did not complete was cut: what takes longer than that has not converged either.
    cut = float("inf") if all(completed) else max(run["total_s"] for run in runs) * SECOND
    converges = tuple(trace[-1].phase == "stop-and-copy" and total_time(trace) <= cut for trace in traces)
    yield Row(label, "converges", completed, converges, book[-2].why == "little left" and total_time(book) <= cut)
    if not all(completed) or not all(converges):
        return
    for quantity, of_run, of_trace in (
        ("total (s)", lambda run: run["total_s"], lambda trace: total_time(trace) / SECOND),
        ("MB", lambda run: run["sent_bytes"] / 1e6, lambda trace: bytes_sent(trace) / 1e6),
        ("downtime (ms)", lambda run: run.get("downtime_ms"), lambda trace: downtime(trace) / 1000),
    ):
        measured = tuple(value for run in runs if (value := of_run(run)) is not None)
        if measured:
            yield Row(label, quantity, measured, tuple(of_trace(trace) for trace in traces), of_trace(book))


# A set of hot pages written at one rate, and all of memory at another: pages, writes/s, writes/s. The three numbers were
# fitted to rounds 1 to 3 only, by `python -m bench.fit_clark05`; the best first, then others that fit about as well.
FITTED = {
    "SPECweb99": ((15625, 39658, 690), (13672, 27944, 660), (11719, 21036, 646)),
    "Quake 3": ((1094, 44, 901), (469, 28, 882), (156, 12, 921)),
}
PUBLISHED = {"SPECweb99": CLARK05_SPECWEB, "Quake 3": CLARK05_QUAKE}


def clark05(name: str, hot_pages: int, hot_rate: int, rate: int) -> list:
    """Return the trace of one of the migrations of [Clark05] under its own rule.

    >>> [round(r.sent * PAGE / 1e6) for r in clark05("SPECweb99", *FITTED["SPECweb99"][0])][:3]
    [669, 127, 39]
    """
    pages = int(PUBLISHED[name]["ram_mb"] * 1e6) // PAGE
    guest = Mix((Uniform(hot_pages, hot_rate), Uniform(pages, rate, seed=1)))
    return precopy(guest, pages, 500 * MBIT, Adaptive())


def _line(row: Row) -> str:
    if row.quantity == "converges":
        told = [{True: "yes", False: "no"}.get(min(v), "?") if min(v) == max(v) else "some" for v in row[2:4]]
        return f"{row.point:9} converges     {told[0]:>15} {told[1]:>15} {'':14} {'yes' if row.textbook else 'no':>8}"
    spans = [f"{min(values):.4g} to {max(values):.4g}" for values in (row.measured, row.model)]
    middle = median(row.model)
    errors = f"{middle:7.4g} {row.error(middle):+6.1%} {row.textbook:8.4g} {row.error(row.textbook):+7.1%}"
    return f"{row.point:9} {row.quantity:13} {spans[0]:>15} {spans[1]:>15} {errors}"


def main(arguments: list[str]) -> int:
    """Print the tables; return the exit status."""
    try:
        rows = [row for point in load(*arguments[:1]) for row in qemu_rows(point)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{'point':9} {'quantity':13} {'measured':>15} {'model':>15} {'median':>7} {'error':>6} {'textbook':>8} {'error':>7}"
    )
    for row in rows:
        print(_line(row))
    for name, published in PUBLISHED.items():
        print(f"\n{name} [Clark05], MB sent in each round; rounds 1 to 3 fitted, the rest predicted")
        print("published", *published["sent_mb"], f"  downtime {published['downtime_ms']} ms")
        for guest in FITTED[name]:
            trace = clark05(name, *guest)
            print(
                "model    ",
                *(round(r.bytes / 1e6, 1) for r in trace),
                f"  downtime {downtime(trace) / 1000:.0f} ms",
                end="",
            )
            print(f"  ({guest[0]} hot pages)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
