"""Finds the streams, but sends again what is on B already."""
# expect: prepaging=0/6


def next_pages(faults, missing, n):
    seen, heads = set(faults), []
    for page in reversed(faults):
        steps = [s for s in range(-12, 13) if abs(s) >= 3 and page - s in seen and page - 2 * s in seen]
        if steps and all(abs(page - other) > 1000 for other, _ in heads):
            heads.append((page, min(steps, key=abs)))
    return [page + far * step for far in range(1, n + 1) for page, step in heads][:n]
