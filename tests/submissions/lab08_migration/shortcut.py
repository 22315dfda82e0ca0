"""Calls the nearest thing in vlib: a migration of the recorded writes, its stop rule, its prepaging."""
# expect: working_set=0/6 stop_rule=0/6 prepaging=0/6

import numpy as np

from vlib.migration import Round, precopy
from vlib.postcopy import Prepaging
from vlib.stop_rules import Rounds
from vlib.workloads import PAGE, Recorded


def migrated(bitmaps, k, rule):
    intervals, pages = np.nonzero(bitmaps)
    memory = bitmaps.shape[1]
    return precopy(Recorded(intervals * 50_000, pages), memory, memory * PAGE * 20 // k, rule)


def expected_dirty(bitmaps, k):
    return float(migrated(bitmaps, k, Rounds(max_rounds=1))[0].dirtied)


def working_set(bitmaps, k):
    held = migrated(bitmaps, k, Rounds(goal=0, hold_after=2))[-1].sent
    return np.argsort(-bitmaps.sum(axis=0), kind="stable")[:held].tolist()


def stop_now(history, memory, budget):
    trace, clock = [], 0
    for sent, left in history:
        trace.append(Round(clock, clock + sent, "pre-copy", 1, sent, sent * PAGE, 0, left, left, sent))
        clock += sent
    return bool(Rounds(goal=64, max_factor=budget // memory).stop(trace, history[-1][1]))


def next_pages(faults, missing, n):
    pager = Prepaging()
    for page in faults:
        pager.fault(page)
    return pager.take(n, missing.copy()).tolist()
