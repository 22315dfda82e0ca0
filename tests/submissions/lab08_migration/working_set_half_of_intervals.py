"""Asks for pages written in more than half of the intervals instead of the rounds: the length of a round is ignored."""
# expect: working_set=3/6

import numpy as np


def working_set(bitmaps, k):
    return np.flatnonzero(bitmaps.mean(axis=0) > 0.5).tolist()
