"""Right by other means: running sums, a forecast of the next round, sorted faults, lost messages by number."""

import numpy as np


def touched(bitmaps, k):
    sums = np.vstack([np.zeros(bitmaps.shape[1], int), np.cumsum(bitmaps, axis=0)])
    return sums[k:] > sums[:-k]


def expected_dirty(bitmaps, k):
    return float(touched(bitmaps, k).sum() / (len(bitmaps) - k + 1))


def working_set(bitmaps, k):
    rounds = touched(bitmaps, k)
    return [page for page in range(bitmaps.shape[1]) if 2 * int(rounds[:, page].sum()) > len(rounds)]


def stop_now(history, memory, budget):
    sent, left = np.array(history).T
    shrinks = left[-1] / max(left[-2], 1) if len(left) > 1 else 1.0
    forecast = left[-1] * min(shrinks, 1)
    if left[-1] <= 64 or sent.sum() + left[-1] + forecast > budget:
        return np.True_
    stuck = shrinks > 0.9
    return stuck and left[-1] < left[0] / 2  # still high, and there is budget: wait for a calm


def next_pages(faults, missing, n):
    # Streams lie far apart, so sorting takes them apart; a cluster of one or two faults is a stray.
    ordered = np.sort(faults)
    clusters = [c for c in np.split(ordered, np.flatnonzero(np.diff(ordered) > 100) + 1) if len(c) > 2]
    ahead = []
    for cluster in clusters:
        step = int(np.median(np.diff(cluster)))
        in_time = [page for page in faults if page in cluster]
        sign = 1 if in_time[-1] > in_time[0] else -1
        pages = in_time[-1] + sign * step * np.arange(1, 60)
        ahead.append(pages[missing[pages]][: n // len(clusters)])
    return np.concatenate(ahead)


schedules = {
    "a_resumes_after_commit": [10, 12, 14],
    "a_retries_after_commit": [10, 11, 12, 13, 14, 15, 16],
    "a_commits_without_ready": [7, 8, 9],
    "b_runs_before_commit": [[17_500, 87_500]],
    "b_takes_silence_for_commit": [8, 9, 10, 11],
    "b_takes_silence_for_abort": [9, 10, 11, 12, 13],
    "b_keeps_reservation": (2, 3, 4),
}
