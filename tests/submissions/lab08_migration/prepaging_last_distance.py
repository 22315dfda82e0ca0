"""Takes the distance between the last two faults for the guest's step: right for one stream only."""
# expect: prepaging=2/6


def next_pages(faults, missing, n):
    step = faults[-1] - faults[-2]
    ahead = [faults[-1] + far * step for far in range(1, 60)]
    return [page for page in ahead if 0 <= page < len(missing) and missing[page]][:n]
