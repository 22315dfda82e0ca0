"""Fit the guests of `vlib.fidelity` to the first three rounds of each migration that Clark et al. published.

For each size of the hot set the two rates are improved step by step. Prints the size, the rates, the errors of rounds 1
to 3, and what the guest predicts: several guests fit three rounds about equally well and differ in the later ones.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from math import log, sqrt

from vlib.fidelity import PUBLISHED, clark05
from vlib.migration import downtime
from vlib.workloads import PAGE

HOT_SHARES = (0.01, 0.02, 0.03, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07, 0.08, 0.09, 0.1, 0.15)


def errors(name: str, guest: tuple) -> list[float]:
    """Return the relative errors of rounds 1 to 3."""
    sent = [r.bytes / 1e6 for r in clark05(name, *guest)] + [0.0] * 3
    return [model / told - 1 for model, told in zip(sent[:3], PUBLISHED[name]["sent_mb"], strict=False)]


def misfit(name: str, guest: tuple) -> float:
    """Return the sum of the squared logarithmic errors of rounds 1 to 3."""
    return sum(log(max(1 + error, 1e-3)) ** 2 for error in errors(name, guest))


def fit(name: str, hot_pages: int) -> tuple:
    """Return the guest with so many hot pages whose first three rounds come nearest."""
    pages = int(PUBLISHED[name]["ram_mb"] * 1e6) // PAGE
    best, step = (hot_pages, 2 * hot_pages, pages // 250), 2.0
    least = misfit(name, best)
    while step > 1.02:
        tried = []
        for hot, cold in ((step, 1), (1 / step, 1), (1, step), (1, 1 / step)):
            guest = (hot_pages, round(best[1] * hot), round(best[2] * cold))
            tried.append((misfit(name, guest), guest))
        if min(tried)[0] < least:
            least, best = min(tried)
        else:
            step = sqrt(step)
    return best


def _fit(job):
    return fit(*job)


if __name__ == "__main__":
    for name in sys.argv[1:] or PUBLISHED:
        pages = int(PUBLISHED[name]["ram_mb"] * 1e6) // PAGE
        with ProcessPoolExecutor() as pool:
            guests = pool.map(_fit, [(name, round(share * pages)) for share in HOT_SHARES])
        for guest in sorted(guests, key=lambda guest: misfit(name, guest)):
            trace = clark05(name, *guest)
            told = " ".join(f"{error:+.1%}" for error in errors(name, guest))
            sent = [round(r.bytes / 1e6, 1) for r in trace]
            print(f"{name}: {guest} misfit {misfit(name, guest):.5f} ({told}) {sent} {downtime(trace) / 1000:.0f} ms")
