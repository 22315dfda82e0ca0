"""Lets rounds start only where the round before has ended: most starts are left out."""
# expect: working_set=0/6

import numpy as np


def side_by_side(bitmaps, k):
    return np.array([bitmaps[s : s + k].any(axis=0) for s in range(0, len(bitmaps) - k + 1, k)])


def expected_dirty(bitmaps, k):
    return side_by_side(bitmaps, k).sum(axis=1).mean()


def working_set(bitmaps, k):
    return np.flatnonzero(side_by_side(bitmaps, k).mean(axis=0) > 0.5).tolist()
