"""The handover: the exact good run, every point of loss, random schedules, and what each wrong rule does."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlib.handover import MUTANTS, Event, Protocol, Span, handover, outcome, running, verdicts, violations

GOOD = [
    Event(0, "A", 0, "runs"),
    Event(0, "A", 1, "send", "reserve", 1, 500, True),
    Event(500, "B", 1, "reserves"),
    Event(500, "B", 1, "send", "reserved", 2, 1_000, True),
    Event(1_000, "A", 2, "send", "pages 1", 3, 9_500, True),
    Event(9_500, "B", 2, "send", "got 1", 4, 10_000, True),
    Event(10_000, "A", 2, "send", "pages 2", 5, 14_500, True),
    Event(14_500, "B", 2, "send", "got 2", 6, 15_000, True),
    Event(15_000, "A", 3, "suspends"),
    Event(15_000, "A", 3, "send", "last", 7, 17_500, True),
    Event(17_500, "B", 3, "ready"),
    Event(17_500, "B", 4, "send", "ready", 8, 18_000, True),
    Event(18_000, "A", 4, "commits"),
    Event(18_000, "A", 4, "send", "commit", 9, 18_500, True),
    Event(18_500, "B", 5, "runs"),
    Event(18_500, "B", 5, "send", "running", 10, 19_000, True),
    Event(19_000, "A", 5, "releases"),
    Event(19_000, "A", 5, "send", "released", 11, 19_500, True),
    Event(19_500, "", 5, "rest"),
]
SENT = 11  # transmissions of the good run
LONG = 10**9  # µs: longer than any wait after a dozen losses


def whats(trace, host):
    return [event.what for event in trace if event.host == host and event.what != "send"]


def assert_safe(trace):
    """The rules themselves, read off the trace without the metrics."""
    a, b = whats(trace, "A"), whats(trace, "B")
    assert a.count("commits") <= 1
    if "commits" in a:
        assert "resumes" not in a
    if "runs" in b:
        assert b.count("runs") == 1
        order = [(event.host, event.what) for event in trace]
        assert order.index(("A", "suspends")) < order.index(("A", "commits")) < order.index(("B", "runs"))
    assert len({event.message for event in trace if event.what == "lock"}) <= 1
    assert violations(trace) == []


def test_good_run_exactly():
    assert handover() == GOOD
    assert outcome(GOOD) == "on B"
    assert running(GOOD) == [Span(0, 15_000, "A"), Span(15_000, 18_500, ""), Span(18_500, 19_500, "B")]


def test_with_a_lock_the_good_run_only_adds_that_a_writes_its_commitment():
    trace = handover(lock=True)
    assert [event for event in trace if event.what == "lock"] == [Event(18_000, "A", 4, "lock", "B")]
    assert [event for event in trace if event.what != "lock"] == GOOD


def test_refused_reservation():
    trace = handover(refuse=True)
    assert [(e.time, e.host, e.what, e.message) for e in trace] == [
        (0, "A", "runs", ""),
        (0, "A", "send", "reserve"),
        (500, "B", "send", "refused"),
        (1_000, "A", "send", "abort"),
        (1_500, "", "rest", ""),
    ]
    assert running(trace) == [Span(0, 1_500, "A")]


def test_postcopy_good_run():
    trace = handover(scheme="postcopy")
    assert [event.message for event in trace if event.what == "send"] == [
        *("reserve", "reserved", "last", "ready", "commit"),
        *("fetch 1", "pages 1", "fetch 2", "pages 2", "fetch 3", "pages 3", "running", "released"),
    ]
    assert running(trace) == [Span(0, 1_000, "A"), Span(1_000, 2_500, ""), Span(2_500, 20_500, "B")]


# Doubt ----------------------------------------------------------------------------------------------------------------


def test_lost_commit_is_repeated_when_the_link_heals():
    trace = handover([[18_000, 30_000]])
    # A repeats after 5 and 10 ms: at 18, 23 and 33 ms
    assert running(trace) == [Span(0, 15_000, "A"), Span(15_000, 33_500, ""), Span(33_500, 34_500, "B")]
    assert [e.time for e in trace if e.message == "commit"] == [18_000, 23_000, 33_000]
    assert trace[-1].what == "rest"


def test_lost_commit_for_ever_leaves_doubt():
    trace = handover([[18_000, None]])
    assert running(trace) == [Span(0, 15_000, "A"), Span(15_000, 1_000_000, "")]
    assert outcome(trace) == "in doubt"
    assert trace[-1] == Event(1_000_000, "", 4, "horizon")


def test_lock_decides_doubt_for_b_when_a_has_committed():
    trace = handover([[18_000, None]], lock=True)
    # B asks A at 17.5, 22.5 and 32.5 ms and the lock at 52.5 ms
    assert [e for e in trace if e.what == "lock"] == [
        Event(t, h, 4, "lock", "B") for t, h in [(18_000, "A"), (52_500, "B")]
    ]
    assert running(trace) == [Span(0, 15_000, "A"), Span(15_000, 52_500, ""), Span(52_500, 1_000_000, "B")]


def test_lock_decides_doubt_for_a_when_a_has_not_committed():
    down = [[17_600, None]]  # loses `ready`
    assert whats(handover(down), "B") == ["reserves", "ready"]  # B must wait for ever, its memory set aside
    trace = handover(down, lock=True)
    assert [e for e in trace if e.what == "lock"] == [Event(52_500, "B", 4, "lock", "A")]
    assert whats(trace, "B") == ["reserves", "ready", "lock", "releases"]
    # A repeats `last` at 15, 22 and 36 ms and takes the VM back at 64 ms
    assert running(trace) == [Span(0, 15_000, "A"), Span(15_000, 64_000, ""), Span(64_000, 64_500, "A")]


def test_b_asks_until_it_hears_of_the_abort():
    trace = handover([[17_600, 200_000]])
    assert outcome(trace) == "on A"
    assert whats(trace, "B") == ["reserves", "ready", "releases"]
    assert trace[-1].what == "rest"


# Every point of loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [False, True])
@pytest.mark.parametrize("scheme", ["precopy", "postcopy"])
def test_one_or_two_losses_anywhere_only_delay(scheme, lock):
    longest = SENT + 8
    for losses in chain(combinations(range(1, longest), 1), combinations(range(1, longest), 2)):
        trace = handover(losses, scheme=scheme, lock=lock)
        assert_safe(trace)
        assert outcome(trace) == "on B", losses
        assert trace[-1].what == "rest"


@pytest.mark.parametrize("losses", [*combinations(range(1, 8), 1), *combinations(range(1, 8), 2)])
def test_losses_only_delay_a_refusal(losses):
    trace = handover(losses, refuse=True)
    assert_safe(trace)
    assert running(trace)[-1].hosts == "A" and len(running(trace)) == 1
    assert whats(trace, "B") == []


def test_without_repetition_each_loss_before_commitment_leaves_it_on_a():
    found = [outcome(handover([n], tries=1)) for n in range(1, SENT + 1)]
    assert found == ["on A"] * 8 + ["on B"] * 3


def test_each_failure_before_commitment_releases_the_reservation():
    for n in range(1, 9):
        trace = handover([n], tries=1)
        assert_safe(trace)
        assert trace[-1].what == "rest"
        assert whats(trace, "B")[-1:] == ([] if n == 1 else ["releases"])


@pytest.mark.parametrize("lock", [False, True])
def test_link_down_for_ever_from_every_instant(lock):
    moments = {event.time + d for event in GOOD for d in (-1, 0, 1)} | set(range(0, 21_000, 250))
    for moment in sorted(moments - {-1}):
        trace = handover([[moment, None]], lock=lock)
        assert_safe(trace)
        doubt = "on B" if lock else "in doubt"
        assert outcome(trace) == ("on A" if moment < 18_000 else doubt if moment < 18_500 else "on B"), moment


@pytest.mark.parametrize("lock", [False, True])
def test_postcopy_link_down_for_ever_from_every_instant(lock):
    for moment in range(0, 21_000, 125):
        trace = handover([[moment, None]], scheme="postcopy", lock=lock)
        assert_safe(trace)
        if moment < 2_000:
            expected = "on A"
        elif moment < 2_500 and not lock:
            expected = "in doubt"
        else:
            expected = "lost" if moment < 19_500 else "on B"  # the last part arrives at 19.5 ms
        assert outcome(trace) == expected, moment
        assert ("loses" in whats(trace, "B")) == (expected == "lost")


@pytest.mark.parametrize("lock", [False, True])
@pytest.mark.parametrize("tries", [1, 3])
def test_every_subset_of_the_first_thirteen_transmissions(tries, lock):
    for bits in range(2**13):
        losses = [n + 1 for n in range(13) if bits >> n & 1]
        trace = handover(losses, copying=[2_000], tries=tries, lock=lock, horizon=LONG)
        assert_safe(trace)
        # all later messages arrive, so it must end, on one host, and where A's commitment says
        assert trace[-1].what == "rest"
        assert outcome(trace) == ("on B" if "commits" in whats(trace, "A") else "on A")


# Random schedules -----------------------------------------------------------------------------------------------------

numbers = st.lists(st.integers(1, 40), max_size=10)
outages = st.lists(
    st.tuples(st.integers(0, 150_000), st.integers(1, 150_000)).map(lambda o: [o[0], o[0] + o[1]]), max_size=3
)
settings = st.fixed_dictionaries(
    {
        "lock": st.booleans(),
        "copying": st.lists(st.integers(0, 20_000), min_size=1, max_size=4),
        "latency": st.integers(1, 1_000),
        "timeout": st.integers(2_001, 20_000),
        "tries": st.integers(1, 4),
    }
)


@given(numbers, outages, settings)
def test_precopy_is_safe_and_ends_on_one_host_once_the_link_is_well(lost, down, chosen):
    trace = handover(lost + down, horizon=LONG, **chosen)
    assert_safe(trace)
    assert trace[-1].what == "rest"
    assert outcome(trace) == ("on B" if "commits" in whats(trace, "A") else "on A")


@given(numbers, outages, st.integers(0, 300_000), settings)
def test_precopy_never_loses_the_vm_and_a_lock_needs_no_link(lost, down, dead, chosen):
    trace = handover([*lost, *down, [dead, None]], horizon=LONG, **chosen)
    assert_safe(trace)
    committed = "commits" in whats(trace, "A")
    if not committed:
        assert outcome(trace) == "on A"
    else:
        assert outcome(trace) in (("on B",) if chosen["lock"] else ("on B", "in doubt"))


@given(numbers, outages, st.none() | st.integers(0, 300_000), settings)
def test_postcopy_is_safe_and_says_when_the_vm_is_lost(lost, down, dead, chosen):
    ever = [] if dead is None else [[dead, None]]
    trace = handover(lost + down + ever, scheme="postcopy", horizon=LONG, **chosen)
    assert_safe(trace)
    assert (outcome(trace) == "lost") == ("loses" in whats(trace, "B"))


# Wrong rules ----------------------------------------------------------------------------------------------------------

KILLS = [  # a schedule in which the rule does harm, and the harm
    ("a_resumes_after_commit", [[18_500, 60_000]], ["split brain"]),
    ("a_retries_after_commit", [[18_500, 200_000]], ["split brain"]),
    ("a_commits_without_ready", [[15_000, None]], ["lost"]),
    ("b_runs_before_commit", [[17_500, None]], ["split brain"]),
    ("b_takes_silence_for_commit", [[17_500, None]], ["split brain"]),
    ("b_takes_silence_for_abort", [[18_000, 60_000]], ["lost"]),
    ("b_runs_on_every_commit", [10], ["started twice"]),
    ("b_keeps_reservation", [[2_000, None]], ["leak"]),
]


def test_every_mutant_has_a_kill():
    assert [name for name, _, _ in KILLS] == list(MUTANTS)


@pytest.mark.parametrize(("name", "losses", "harm"), KILLS)
def test_each_wrong_rule_does_harm_that_the_right_one_does_not(name, losses, harm):
    found = verdicts(losses)
    assert found[name] == harm
    assert found["right"] == []
    assert list(found) == ["right", *MUTANTS]
    assert found[name] == violations(handover(losses, protocol=MUTANTS[name]))


@pytest.mark.parametrize("settings", [{}, {"lock": True}, {"refuse": True}, {"scheme": "postcopy"}])
def test_no_mutant_is_caught_by_a_good_link_unless_it_leaks(settings):
    assert not any(verdicts([], **settings).values())


def test_a_retry_after_commit_is_harmless_until_the_outage_outlasts_it_too():
    assert verdicts([[18_500, 53_000]])["a_retries_after_commit"] == []
    assert verdicts([10, 12, 14])["a_retries_after_commit"] == []
    assert verdicts([[18_500, 53_000]])["a_resumes_after_commit"] == ["split brain"]
    assert verdicts([10, 12, 14])["a_resumes_after_commit"] == ["split brain"]


def test_verdicts_pass_settings_on():
    down = [[18_500, None]]
    assert verdicts(down, tries=1)["a_resumes_after_commit"] == ["split brain"]
    assert verdicts(down, tries=1, refuse=True)["a_resumes_after_commit"] == []


# Metrics on traces written by hand ------------------------------------------------------------------------------------


def test_metrics_see_two_hosts_running():
    trace = [
        Event(0, "A", 0, "runs"),
        Event(5, "B", 3, "ready"),
        Event(5, "B", 5, "runs"),
        Event(9, "A", 3, "suspends"),
        Event(9, "A", 4, "commits"),
        Event(12, "", 5, "rest"),
    ]
    assert running(trace) == [Span(0, 5, "A"), Span(5, 9, "AB"), Span(9, 12, "B")]
    assert violations(trace) == ["split brain"]
    assert outcome(trace) == "on B"
    assert outcome(trace[:3]) == "on both"


def test_a_handing_over_at_one_instant_is_no_split_brain():
    trace = [Event(0, "A", 0, "runs"), Event(5, "B", 5, "runs"), Event(5, "A", 3, "suspends"), Event(9, "", 5, "rest")]
    assert running(trace) == [Span(0, 5, "A"), Span(5, 9, "B")]
    assert violations(trace) == []


def test_a_leak_is_judged_only_when_all_is_over():
    trace = [Event(0, "A", 0, "runs"), Event(5, "B", 1, "reserves")]
    assert violations([*trace, Event(9, "", 1, "rest")]) == ["leak"]
    assert violations([*trace, Event(9, "", 1, "horizon")]) == []
    assert violations([*trace, Event(7, "B", 1, "releases"), Event(9, "", 1, "rest")]) == []


def test_a_lost_vm_is_excused_only_if_it_is_said():
    trace = [Event(0, "A", 0, "runs"), Event(1, "A", 3, "suspends"), Event(1, "A", 4, "commits")]
    assert outcome(trace) == "lost"
    assert violations([*trace, Event(9, "", 4, "rest")]) == ["lost"]
    assert violations([*trace, Event(3, "B", 5, "loses"), Event(9, "", 4, "rest")]) == []


# The link -------------------------------------------------------------------------------------------------------------


def test_an_outage_loses_what_is_on_the_link_and_nothing_else():
    def lost(start, end):
        return [e.number for e in handover([[start, end]]) if e.what == "send" and not e.delivered and e.time < 9_500]

    assert lost(8_000, 8_001) == [3]  # `pages 1` is on the link from 1.0 to 9.5 ms
    assert lost(0, 1) == [1]
    assert lost(500, 501) == [2]  # `reserve` has arrived
    assert lost(9_500, 9_501) == []
    assert [e.number for e in handover([[0, 1_000]]) if not e.delivered and e.what == "send"] == [1]


def test_numbers_and_pairs_mix_in_any_order_and_repeat():
    assert handover([3, [18_000, 30_000], 3]) == handover(([18_000, 30_000], 3))


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        0,
        -1,
        True,
        1.0,
        "3",
        None,
        [],
        [5],
        [5, 5],
        [5, 4],
        [-1, 4],
        [None, 5],
        [0, True],
        [1.5, 3],
        [1, 2, 3],
        {"at": 3},
    ],
)
def test_a_bad_loss_is_named(loss):
    with pytest.raises(ValueError) as caught:
        handover([1, loss])
    assert f"losses[1] is {loss!r}; allowed: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("losses", [3, None, "12", {1, 2}, {3: 4}])
def test_losses_must_be_a_list(losses):
    with pytest.raises(ValueError, match=r"losses is .*; allowed: a list"):
        handover(losses)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheme", "hybrid"),
        ("copying", []),
        ("copying", 5),
        ("latency", 0),
        ("latency", 0.5),
        ("timeout", 1_000),
        ("tries", 0),
        ("tries", True),
        ("horizon", 0),
    ],
)
def test_a_bad_setting_is_named(name, value):
    with pytest.raises(ValueError) as caught:
        handover(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; allowed: ")


def test_a_bad_round_is_named():
    with pytest.raises(ValueError, match=r"copying\[1\] is -1; allowed: an integer from 0"):
        handover(copying=[5, -1])


def test_the_right_protocol_deviates_in_nothing():
    assert Protocol() not in MUTANTS.values()
    assert len(set(MUTANTS.values())) == len(MUTANTS)
