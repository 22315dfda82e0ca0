"""Takes the dirty rate times the time for the pages that get dirty: counts a page again in every interval."""
# expect: working_set=3/6


def expected_dirty(bitmaps, k):
    return float(bitmaps.sum(axis=1).mean() * k)
