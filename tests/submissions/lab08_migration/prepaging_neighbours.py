"""Sends the neighbours of the latest faults, as if the guest walked page by page."""
# expect: prepaging=0/6


def next_pages(faults, missing, n):
    around = [page + side * far for far in range(1, 20) for page in faults[-2:] for side in (1, -1)]
    return [page for page in dict.fromkeys(around) if missing[page]][:n]
