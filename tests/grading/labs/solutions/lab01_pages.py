"""The solution of lab 1."""

PAGE = 4096

pages_needed = 3


def page(address):
    return address // PAGE


def dirty_pages(addresses):
    return sorted({page(a) for a in addresses})


def mean_gap(times):
    return (times[-1] - times[0]) / (len(times) - 1)


def victims(pages, room):
    return pages[:room]
