from itertools import pairwise

import numpy as np
import pytest
import reference_migration as plain
from hypothesis import given
from hypothesis import strategies as st

from vlib.workloads import SECOND, Idle, Later, Mix, Phases, Recorded, Sweep, Uniform, Zipf, check_range

RATES = st.one_of(st.integers(0, 50), st.integers(0, 3_000_000))


@st.composite
def steady(draw):
    pages, rate, first = draw(st.integers(1, 50)), draw(RATES), draw(st.integers(0, 9))
    kind = draw(st.sampled_from((Uniform, Zipf, Sweep)))
    more = {} if kind is Sweep else {"seed": draw(st.integers(0, 2**40))}
    return kind(pages, rate, first, **more)


@st.composite
def recorded(draw):
    times = sorted(draw(st.lists(st.integers(0, 600), max_size=30)))
    return Recorded(times, draw(st.lists(st.integers(0, 40), min_size=len(times), max_size=len(times))))


def phases(part):
    return st.lists(st.tuples(st.integers(1, 400), part), min_size=1, max_size=3).map(lambda p: Phases(tuple(p)))


def workloads():
    """Return a strategy for guests of every kind, small enough for the plain reference."""
    simple = st.one_of(steady(), recorded(), st.just(Idle()))
    return st.recursive(
        simple,
        lambda part: st.one_of(
            st.lists(part, max_size=3).map(lambda parts: Mix(tuple(parts))),
            phases(part),
            st.builds(Later, part, st.integers(0, 1000)),
        ),
        max_leaves=4,
    )


def listed(workload, start, end):
    return plain.pairs(workload, start, end)


def test_a_steady_writer_by_hand():
    # Three writes a second: at 0, 333333, 666666, 1000000, ... The one at 333333 is in [333333, ...), not in [..., 333333).
    guest = Sweep(pages=2, rate=3, first=5)
    assert listed(guest, 0, SECOND) == [(0, 5), (333_333, 6), (666_666, 5)]
    assert listed(guest, 333_333, 333_334) == [(333_333, 6)]
    assert listed(guest, 1, 333_333) == []
    assert guest.end == 7


@given(st.integers(1, 2**32), RATES, st.integers(0, 99), st.integers(0, 2**40), st.integers(0, 2000))
def test_uniform_and_sweep_are_what_plain_python_says(pages, rate, first, seed, start):
    end = start + 300
    assert listed(Uniform(pages, rate, first, seed), start, end) == plain.uniform(
        pages, rate, first, seed % 2**32, start, end
    )
    assert listed(Sweep(pages, rate, first), start, end) == plain.sweep(pages, rate, first, start, end)


@given(workloads(), st.lists(st.integers(0, 1500), max_size=6))
def test_no_workload_depends_on_how_a_span_is_cut(workload, cuts):
    whole = listed(workload, 0, 1500)
    edges = [0, *sorted(cuts), 1500]
    assert [w for start, end in pairwise(edges) for w in listed(workload, start, end)] == whole
    assert whole == sorted(whole, key=lambda write: write[0])
    assert all(0 <= time < 1500 and 0 <= page < workload.end for time, page in whole)


@given(st.lists(st.tuples(st.integers(1, 400), steady()), min_size=1, max_size=3), st.integers(0, 3000))
def test_phases_keep_what_falls_into_each_turn(parts, start):
    assert listed(Phases(tuple(parts)), start, start + 700) == plain.phases(parts, start, start + 700)


def test_mix_keeps_the_order_of_its_parts_at_equal_times():
    assert listed(Mix((Sweep(1, 2, first=7), Sweep(1, 1, first=3))), 0, SECOND) == [(0, 7), (0, 3), (500_000, 7)]
    assert listed(Mix(()), 0, SECOND) == []


def test_uniform_writes_every_page_equally_often():
    count = np.bincount(Uniform(pages=100, rate=1_000_000, seed=3).writes(0, SECOND)[1], minlength=100)
    assert count.size == 100
    # The statistic is chi-squared with 99 degrees of freedom: 99 on average, above 149 once in a thousand.
    assert ((count - 10_000) ** 2 / 10_000).sum() < 149


def test_another_seed_is_another_guest():
    of = [Uniform(2**20, 1000, seed=seed).writes(0, SECOND)[1] for seed in (0, 1)]
    assert (of[0] == of[1]).sum() < 5


@pytest.mark.parametrize("skew", [0.0, 0.6, 1.0, 2.5])
def test_zipf_follows_its_law(skew):
    n, writes = 50, 400_000
    weight = np.arange(1, n + 1.0) ** -skew
    expected = writes * weight / weight.sum()
    count = np.bincount(Zipf(n, writes, skew=skew).writes(0, SECOND)[1], minlength=n)
    assert ((count - expected) ** 2 / expected).sum() < 85  # 49 degrees of freedom, once in a thousand


def test_distinct_pages_are_those_of_the_formula():
    # After t seconds a uniform guest has written W(1 - exp(-rt/W)) distinct pages, give or take sqrt(W)/2.
    working_set, rate = 40_000, 20_000
    for seconds in (1, 2, 5):
        distinct = np.unique(Uniform(working_set, rate, seed=7).writes(0, seconds * SECOND)[1]).size
        formula = working_set * (1 - np.exp(-rate * seconds / working_set))
        assert abs(distinct - formula) < 3 * working_set**0.5 / 2


def test_recorded_is_silent_after_its_end():
    trace = Recorded([5, 5, 9], [1, 0, 1])
    assert listed(trace, 0, 100) == [(5, 1), (5, 0), (9, 1)]
    assert listed(trace, 9, 9) == listed(trace, 10, 2**50) == []
    assert Recorded([], []).end == 0


def test_recorded_from_a_file(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("0,3\n20,4\n")
    assert listed(Recorded.load(path), 0, 100) == [(0, 3), (20, 4)]
    path.write_text("0,3\nnonsense\n")
    with pytest.raises(ValueError, match="is not a recorded trace"):
        Recorded.load(path)
    path.write_text("0,3,1\n")
    with pytest.raises(ValueError, match="has 3 columns, allowed: 2"):
        Recorded.load(path)


def test_moments_that_64_bits_cannot_hold_are_refused():
    guest = Sweep(pages=3, rate=3_000_000)
    late = (2**63 - 1) // 3_000_000
    times, pages = guest.writes(late - 2, late)
    assert times.tolist() == [k * SECOND // 3_000_000 for k in range(3 * (late - 2), 3 * late)]
    assert pages.tolist() == [0, 1, 2] * 2
    with pytest.raises(ValueError, match=f"end is {late + 1}, allowed"):
        guest.writes(late, late + 1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Uniform(0, 1), "pages is 0, allowed: whole numbers, 1 to 4294967296"),
        (lambda: Uniform(2**33, 1), "pages is 8589934592"),
        (lambda: Uniform(10, -1), "rate is -1, allowed: whole numbers, 0 or more"),
        (lambda: Uniform(10, 0.5), "rate is 0.5, allowed: whole numbers, 0 or more"),
        (lambda: Sweep(10, float("nan")), "rate is nan"),
        (lambda: Sweep(10, "7"), "rate is 7, allowed: whole numbers"),
        (lambda: Sweep(10, 1, first=-1), "first is -1"),
        (lambda: Zipf(10, 1, skew=-0.1), "skew is -0.1, allowed: 0 or more"),
        (lambda: Zipf(10, 1, skew=float("nan")), "skew is nan"),
        (lambda: Phases(()), "parts is empty"),
        (lambda: Phases(((0, Idle()),)), "duration is 0"),
        (lambda: Later(Idle(), -1), "by is -1"),
        (lambda: Recorded([3, 2], [0, 0]), "times has 2 after 3, allowed: ascending"),
        (lambda: Recorded([-3], [0]), "the least of times is -3"),
        (lambda: Recorded([3], [-1]), "the least of pages is -1"),
        (lambda: Recorded([1, 2], [0]), "pages has 1 numbers, allowed: 2"),
        (lambda: Recorded([1.5], [0]), "float64, allowed: one row of whole numbers"),
        (lambda: Recorded([[1]], [[0]]), "2 dimensions"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, told):
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_check_range_takes_numpy_integers():
    check_range("x", np.int64(3), 0, 3)
    with pytest.raises(ValueError, match="x is 4, allowed: whole numbers, 0 to 3"):
        check_range("x", np.int64(4), 0, 3)
