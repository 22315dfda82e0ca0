"""Counts one start too few: leaves out the round that ends with the last interval."""
# expect: working_set=3/6

import numpy as np


def expected_dirty(bitmaps, k):
    return np.mean([bitmaps[s : s + k].any(axis=0).sum() for s in range(max(len(bitmaps) - k, 1))])
