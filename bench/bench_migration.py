"""How long the models of migration take, and how much quicker they are than plain Python: ``python -m bench.bench_migration``."""

import io
import tracemalloc
from statistics import median
from time import process_time

from tests import reference_migration as plain
from vlib.migration import FREE, GBIT, downtime, precopy, rounds
from vlib.postcopy import Prepaging, Push, network_faults, postcopy
from vlib.stop_rules import Rounds
from vlib.workloads import PAGE, Uniform

GIB = 2**30 // PAGE  # pages


def guest(working_set: int) -> Uniform:
    return Uniform(working_set, rate=50_000)


def seconds(run, times: int = 3) -> float:
    """Return the median of some runs, in seconds of CPU time: what they take on a machine with nothing else to do."""
    found = []
    for _ in range(times):
        start = process_time()
        run()
        found.append(process_time() - start)
    return median(found)


def peak_mib(run) -> float:
    """Return the most memory that a run holds at one time."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def large():
    return precopy(guest(4 * GIB), 64 * GIB, 10 * GBIT, Rounds())


def small():
    return precopy(guest(GIB // 4), 4 * GIB, 10 * GBIT, Rounds())


def picture():
    from vlib import plots

    figure = plots.rounds(small()).figure
    figure.savefig(io.BytesIO(), format="svg")
    plots.plt.close(figure)


def against_plain_python() -> tuple[float, float]:
    """Return the seconds of the model and of the page-by-page reference, for the guest of 4 GiB and the same trace."""

    def reference():
        # Five seconds are longer than the whole migration. The guest's writes come from numpy here too.
        return plain.precopy(guest(GIB // 4), 4 * GIB, 10 * GBIT, Rounds(), 0, FREE, horizon=5_000_000)

    if small() != reference():
        raise AssertionError("the model and the page-by-page reference give different traces")
    return seconds(small, 9), seconds(reference, 3)


def main() -> None:
    trace = large()
    print("A guest of 64 GiB, working set 4 GiB, 50,000 writes/s, 10 Gbit/s")
    told = f"{rounds(trace)} rounds, downtime {downtime(trace)} µs"
    print(f"  pre-copy             {seconds(large):6.2f} s  {peak_mib(large):5.0f} MiB   {told}")
    for name, pager in (("push", Push()), ("prepaging", Prepaging())):
        start = process_time()
        trace = postcopy(guest(4 * GIB), 64 * GIB, 10 * GBIT, pager)
        told = f"{network_faults(trace):,} network faults"
        print(f"  post-copy, {name:9} {process_time() - start:6.2f} s              {told}")
    print("A guest of 4 GiB, working set 256 MiB")
    print(f"  pre-copy             {1000 * seconds(small, 9):6.0f} ms {peak_mib(small):5.0f} MiB")
    picture()  # fonts are looked up the first time
    print(f"  with its picture     {1000 * seconds(picture, 9):6.0f} ms")
    ours, theirs = against_plain_python()
    print(
        f"  in plain Python      {1000 * theirs:6.0f} ms            the same trace, {theirs / ours:.0f} times as long"
    )


if __name__ == "__main__":
    main()
