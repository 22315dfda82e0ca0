"""Right by other means: sets and loops, patience of two rounds, faults dealt out to streams one by one."""


def rounds_of(bitmaps, k):
    pages = [{p for p, written in enumerate(row) if written} for row in bitmaps.tolist()]
    return [set().union(*pages[s : s + k]) for s in range(len(pages) - k + 1)]


def expected_dirty(bitmaps, k):
    sizes = [len(written) for written in rounds_of(bitmaps, k)]
    return sum(sizes) / len(sizes)


def working_set(bitmaps, k):
    rounds = rounds_of(bitmaps, k)
    return {p for p in range(len(bitmaps[0])) if sum(p in written for written in rounds) > len(rounds) / 2}


def stop_now(history, memory, budget):
    sent, left = sum(s for s, _ in history), [x for _, x in history]
    if left[-1] <= 64 or sent + 2 * left[-1] > budget:
        return True
    return len(left) > 3 and left[-1] <= 1.1 * min(left) and left[-1] > 0.85 * left[-3]


def next_pages(faults, missing, n):
    # Each fault goes to the line of earlier faults that it continues; the two longest lines are the streams.
    lines = []
    for page in faults:
        for line in lines:
            step = page - line[-1]
            if 3 <= abs(step) <= 12 and (len(line) == 1 or step == line[-1] - line[-2]):
                line.append(page)
                break
        else:
            lines.append([page])
    lines = [line for line in sorted(lines, key=len, reverse=True)[:2] if len(line) >= 3]
    ahead = [(line[-1], line[-1] - line[-2]) for line in lines]
    wanted = [page + far * step for far in range(1, 60) for page, step in ahead]
    return [page for page in wanted if missing[page]][:n]
