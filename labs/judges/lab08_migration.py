"""Judges of lab 8: they replay what a check cell printed on the models, and know no solution.

What is prevented. The histories and faults that a check hands to a student's code end where the decision falls: later
rounds and later touches are computed here only. Each decision of a stop rule is asked for on another guest, and the stop
is tried on guests that are not in the notebook at all. Kinds, sizes and streams come in an order and with numbers that
depend on the seed, so a table of decisions by position fails on another seed. A made-up value, a huge one or one of
another shape earns nothing.

For marks the histories and faults come into the student's kernel as data (the lab's "given" cells); the seed that they
were made from does not, so running the lab's open generators there gives other guests and other faults.

What is not prevented. All cases of a check lie in one kernel, so code could look for a longer history of a similar guest
among them. That takes more work than an honest rule, and stands plainly in the submission for a person to read. Schedules
of losses are the same for everybody: they can be copied, as any answer that is plain data.
"""

from itertools import islice

import numpy as np

from vlib.handover import MUTANTS, handover, outcome, violations
from vlib.migration import precopy
from vlib.stop_rules import Rounds
from vlib.workloads import PAGE, SECOND, Phases, Uniform

# Task 3 -----------------------------------------------------------------------------------------------------------------

GOAL, LAST = 64, 20  # pages; rounds
UNSEEN = (101, 102, 103)  # siblings that no check asks about
LIMITS = 4  # kinds at most that a limit of rounds or of bytes alone is good for: a test holds this


def lab_guests(seed, sibling):
    """Return a guest of each kind as (memory, budget, workload); siblings are alike, but not the same."""
    rng, own = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 3, sibling])
    found = []
    for budget, *phases in (
        (2.0, (9.9, 0.10, 0.60)),
        (3.6, (9.9, 0.50, 0.80)),
        (2.6, (9.9, 0.04, 3.00)),
        (3.25, (9.9, 0.90, 1.20)),
        (1.7, (9.9, 0.50, 3.00)),
        (2.4, (9.9, 0.70, 2.00)),
        (3.2, (1.2, 0.50, 3.00), (0.85, 0.04, 2.00), (9.9, 0.50, 3.00)),
    ):
        memory, parts = 64 * int(rng.integers(100, 160)), []
        for seconds, share, pace in phases:  # share of memory that is written; writes per page that the link can send
            share, pace = share * rng.uniform(0.97, 1.03), pace * rng.uniform(0.97, 1.03) * own.uniform(0.99, 1.01)
            writer = Uniform(int(share * memory), int(pace * memory), seed=int(own.integers(2**31)))
            parts.append((int(seconds * SECOND), writer))
        found.append((memory, int(budget * memory), Phases(tuple(parts))))
    return [found[i] for i in rng.permutation(len(found))]


def lab_history(guest, rounds):
    """Return (sent, left) of each of the first `rounds` rounds, on a link that sends all of memory in a second."""
    memory, _, workload = guest
    rule = Rounds(goal=0, max_rounds=rounds, patience=0)
    found = [(r.sent, r.left) for r in precopy(workload, memory, memory * PAGE, rule)[:-1]]
    return found + [(0, 0)] * (rounds - len(found))


def good_stops(seed):
    """Return for each kind of guest and each round whether a stop after it is good: booleans of shape (kinds, LAST)."""
    unseen = [lab_guests(seed, sibling) for sibling in UNSEEN]
    good = []
    for guests in zip(*unseen, strict=True):
        budget = guests[0][1]
        history = np.array([lab_history(guest, LAST) for guest in guests])
        left = history[:, :, 1]
        total = history[:, :, 0].cumsum(axis=1) + left
        best = np.where(total <= budget, left, np.iinfo(left.dtype).max).min(axis=1).mean()
        short = left.mean(axis=0) <= max(1.25 * best, 1.5 * GOAL)
        good.append(short & (total.mean(axis=0) <= 1.03 * budget))
    return np.array(good)


def stops(printed, seed):
    """Stop unseen guests of each kind where the decisions say so first; points for what a fixed limit does not reach."""
    good = good_stops(seed)
    if len(printed) != len(good) or not all(
        isinstance(row, list) and len(row) == LAST and all(type(d) is bool for d in row) for row in printed
    ):
        return 0, f"expected {len(good)} rows of {LAST} decisions"
    first = [[*row[:-1], True].index(True) for row in printed]
    reached = sum(bool(row[n]) for row, n in zip(good, first, strict=True))
    why = f"good for {reached} of {len(good)} kinds of guest"
    return max(0, reached - LIMITS) / (len(good) - LIMITS), why if reached < len(good) else ""


# Task 4 -----------------------------------------------------------------------------------------------------------------

ASKED, ENOUGH, SOON = 16, 14, 24  # pages asked for, pages that must be right, touches that count as soon


def lab_touches(seed, streams, strays):
    """Yield the pages that a guest of 65,536 pages touches: so many streams, and a share of strays."""
    rng = np.random.default_rng([seed, 4, streams, int(100 * strays)])
    at = [int(rng.integers(8192, 24576)) + 32768 * i for i in range(streams)]
    step = [int(rng.integers(3, 13)) * int(rng.choice((-1, 1))) for _ in at]
    while True:
        for i in rng.permutation(streams):
            if rng.random() < strays:
                yield int(rng.integers(65536))
            at[i] += step[i]
            yield at[i]


def _prepages(printed, seed, streams, strays):
    if len(printed) != 4:
        return 0, f"{len(printed)} answers for 4 cases"
    counted = 0
    for case, pages in enumerate(printed):
        touches = list(islice(lab_touches(10 * seed + case, streams, strays), 18 + SOON))
        soon = set(touches[18:]) - set(touches[:18])
        if isinstance(pages, list) and len(pages) <= ASKED and all(type(page) is int for page in pages):
            counted += len(soon & set(pages)) >= ENOUGH
    return counted / 4, "" if counted == 4 else f"{counted} of 4 cases: {ENOUGH} of {ASKED} pages needed soon"


def prepages_one(printed, seed):
    """Count the pages that the guest touches soon: one stream."""
    return _prepages(printed, seed, 1, 0)


def prepages_two(printed, seed):
    """Count the pages that the guest touches soon: two streams."""
    return _prepages(printed, seed, 2, 0)


def prepages_strays(printed, seed):
    """Count the pages that the guest touches soon: two streams and strays."""
    return _prepages(printed, seed, 2, 0.125)


# Task 5 -----------------------------------------------------------------------------------------------------------------

EXAMPLE = "b_runs_on_every_commit"  # broken in the lab's text
MOST, NUMBERS, TIMES = 8, 200, 1_000_000  # losses in a schedule; their largest number; their latest µs


def _is_schedule(losses):
    def within(value, low, high):
        return type(value) is int and low <= value <= high

    def is_loss(loss):
        if isinstance(loss, list):
            return len(loss) == 2 and within(loss[0], 0, TIMES) and within(loss[1], loss[0] + 1, TIMES)
        return within(loss, 1, NUMBERS)

    return isinstance(losses, list) and 1 <= len(losses) <= MOST and all(map(is_loss, losses))


def breaks(printed, seed):
    """Replay each schedule on its mutant and on the right protocol: one share for each mutant that alone does harm."""
    names = [name for name in MUTANTS if name != EXAMPLE]
    if len(printed) != 1 or not isinstance(printed[0], dict):
        return 0, "schedules is not a mapping from mutants to lists of losses"
    broken, wrong = 0, {}
    for name in names:
        why = _fails(name, printed[0].get(name))
        broken += not why
        if why:
            wrong.setdefault(why, []).append(name)
    return broken / len(names), "; ".join(f"{', '.join(mutants)}: {why}" for why, mutants in wrong.items())


def _fails(name, losses):
    """Return why a schedule does not break its mutant alone, or the empty string."""
    if not _is_schedule(losses):
        return f"not a list of 1 to {MOST} losses in range"
    right = handover(losses)
    if violations(right) or outcome(right) not in ("on A", "on B"):
        return f"with these losses the right protocol ends {outcome(right)}"
    return "" if violations(handover(losses, protocol=MUTANTS[name])) else "the mutant does no harm"
