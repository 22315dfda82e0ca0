"""Fit the guests of `vlib.fidelity` to the first three rounds of each migration that Clark et al. published.

A plain search over a grid of three parameters: pages of the hot set, writes a second to each of them, and writes a
second to all of memory. Prints the guest nearest to rounds 1 to 3, and all that come within a tolerance of each of them.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from math import log

from vlib.fidelity import PUBLISHED, clark05
from vlib.workloads import PAGE

HOT_SHARE = [0.005 * 1.3**i for i in range(14)]  # of memory: 0.5 to 15 %
HOT_RATE = [0.25 * 2 ** (i / 2) for i in range(12)]  # writes a second to each hot page: 0.25 to 11
RATE = [0.002 * 1.1**i for i in range(24)]  # writes a second to all memory, for each of its pages: 0.002 to 0.018
TOLERANCE = 0.03


def errors(name: str, guest: tuple) -> list[float]:
    """Return the relative errors of rounds 1 to 3."""
    sent = [r.bytes / 1e6 for r in clark05(name, *guest)] + [0.0] * 3
    return [model / told - 1 for model, told in zip(sent[:3], PUBLISHED[name]["sent_mb"], strict=False)]


def misfit(name: str, guest: tuple) -> float:
    """Return the sum of the squared logarithmic errors of rounds 1 to 3."""
    return sum(log(max(1 + error, 1e-3)) ** 2 for error in errors(name, guest))


def _try(job):
    return misfit(*job), job[1]


def search(name: str) -> list[tuple]:
    """Return (misfit, guest) of every guest of the grid, the nearest first."""
    pages = int(PUBLISHED[name]["ram_mb"] * 1e6) // PAGE
    grid = [
        (round(share * pages), round(rate * share * pages), round(all_rate * pages))
        for share, rate, all_rate in product(HOT_SHARE, HOT_RATE, RATE)
    ]
    with ProcessPoolExecutor() as pool:
        return sorted(pool.map(_try, [(name, guest) for guest in grid], chunksize=16))


if __name__ == "__main__":
    for name in sys.argv[1:] or PUBLISHED:
        found = search(name)
        print(name, "best", found[0])
        for loss, guest in found[:400]:
            if max(map(abs, errors(name, guest))) <= TOLERANCE:
                print("  ", guest, round(loss, 5), [round(r.bytes / 1e6, 1) for r in clark05(name, *guest)])
