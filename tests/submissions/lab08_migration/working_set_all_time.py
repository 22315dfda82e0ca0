"""Takes every page that was ever written for the working set, whatever the length of a round."""
# expect: working_set=0/6

import numpy as np


def expected_dirty(bitmaps, k):
    return float(bitmaps.any(axis=0).sum())


def working_set(bitmaps, k):
    return np.flatnonzero(bitmaps.any(axis=0)).tolist()
