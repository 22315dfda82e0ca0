"""One gap for each time, instead of one less."""
# expect: mean=0


def mean_gap(times):
    return (times[-1] - times[0]) / len(times)
