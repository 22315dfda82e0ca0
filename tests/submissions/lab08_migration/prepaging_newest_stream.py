"""Serves the stream of the latest fault alone: the other one starves."""
# expect: prepaging=2/6


def next_pages(faults, missing, n):
    page, seen = faults[-1], set(faults)
    steps = [s for s in range(-12, 13) if abs(s) >= 3 and page - s in seen and page - 2 * s in seen]
    step = min(steps, key=abs, default=1)
    return [page + far * step for far in range(1, 60) if missing[page + far * step]][:n]
