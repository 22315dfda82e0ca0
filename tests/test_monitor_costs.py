"""Counts from the monitors times published cycles: what comes out, and that nothing goes in twice."""

import pytest

from vlib import costs
from vlib.guests import guest, make
from vlib.monitors import BinaryTranslation, Hardware, Native, Paravirtual, TrapAndEmulate, ported
from vlib.monitors.prices import bill, cycles, per_operation, predictions, software, vtx

PUBLISHED = {(p.name, p.kind): p for p in predictions()}


def test_two_published_measurements_of_the_round_trip_agree():
    for generation, measured in costs.VTX_ROUND_TRIP.items():
        if generation in costs.VTX_GENERATIONS:
            assert vtx("vmcall", generation) == pytest.approx(measured, rel=0.09)


def test_the_counts_of_one_operation():
    assert per_operation("pgfault", "shadow") == {"reflect #PF": 1}
    assert per_operation("syscall", "bt") == {"reflect int 0x80": 1, "call-out iretd": 1}
    assert per_operation("callret", "bt") == {"indirect": 1}
    for name in ("syscall", "callret", "divzero"):  # hardware lets the guest do these alone
        assert per_operation(name, "shadow") == per_operation(name, "nested") == {}
    for name in ("pgfault", "ptemod"):  # and these since nested paging
        assert per_operation(name, "nested") == {} != per_operation(name, "shadow")
    for name in ("in", "out"):  # but not these
        assert sum(per_operation(name, "nested").values()) == 1


def test_software_beat_the_first_hardware_except_on_system_calls_calls_and_exceptions():
    for name in ("pgfault", "ptemod", "in", "out"):
        assert cycles(name, "bt") < cycles(name, "shadow", "Prescott")
    for name in ("syscall", "callret", "divzero"):
        assert cycles(name, "bt") > cycles(name, "shadow", "Prescott") == 0


def test_the_predictions_order_the_published_pairs_rightly():
    for name, (_, bt, vt) in costs.AA06_NANO.items():
        assert (PUBLISHED[name, "bt"].predicted < PUBLISHED[name, "shadow"].predicted) == (bt < vt), name


def test_the_predictions_miss_by_what_the_model_leaves_out():
    """The hardware's way is a third of an exit on a Pentium 4; AA06's translator also emulates ports and stores in place."""
    for name, share in (("in", 0.27), ("pgfault", 0.38), ("ptemod", 0.33)):
        row = PUBLISHED[name, "shadow"]
        assert row.share == pytest.approx(share, abs=0.005) and row.predicted < row.published
    error = {key: row.predicted / row.published - 1 for key, row in PUBLISHED.items()}
    assert error["pgfault", "bt"] == pytest.approx(0.115, abs=0.005)
    assert error["divzero", "bt"] == pytest.approx(0.295, abs=0.005)
    assert error["divzero", "shadow"] == pytest.approx(-0.123, abs=0.005)
    assert error["callret", "shadow"] == 0
    assert (
        error["in", "bt"] > 4 and error["ptemod", "bt"] > 4 and error["callret", "bt"] > 3
    )  # emulated in the cache there
    assert cycles("syscall", "bt") == pytest.approx(costs.AA06_SYSCALL_EXTRA["bt"], rel=0.7)


def test_two_levers():
    """Ten years of cheaper exits took a page-table write to a fifth; nested paging took it to nothing."""
    by_generation = [cycles("ptemod", "shadow", g) for g in costs.VTX_GENERATIONS]
    assert by_generation[0] == 4259 and by_generation[-1] == 879
    assert max(by_generation) == by_generation[0] and min(by_generation) < by_generation[0] / 5
    assert {cycles("ptemod", "nested", g) for g in costs.VTX_GENERATIONS} == {0}


def test_a_bill_adds_up():
    monitor = Hardware(guest("kernel"), nested=False)
    monitor.run()
    for generation in costs.VTX_GENERATIONS:
        lines = bill(monitor, generation)
        assert lines["guest"] == monitor.v.cycles
        assert sum(lines.values()) == monitor.v.cycles + sum(vtx(exit.reason, generation) for exit in monitor.exits)


def test_translation_call_outs_and_chaining_are_all_paid_for():
    def lines(rounds):
        monitor = BinaryTranslation(make("hot", f"mov ecx, {rounds}\n again: inc eax\n loop again\n hlt"))
        monitor.run()
        return bill(monitor)

    few, many = lines(10), lines(10_000)
    assert few["translate"] == many["translate"] == 6 * 2300  # mov inc loop, once more inc loop, and hlt
    assert few["chain"] == many["chain"] == 3 * 1254  # into the loop, round it, and out of it
    assert few["call-out hlt"] == 1254 and "chain" in few
    assert many["guest"] - few["guest"] == 2 * 9990


def test_bare_trap_and_emulate_and_native():
    machine, monitor = Native(guest("popf")), TrapAndEmulate(guest("popf"))
    machine.run(), monitor.run()
    assert bill(machine) == {"guest": machine.v.cycles}
    assert sum(bill(monitor).values()) == monitor.v.cycles + 2030 * len(monitor.exits)
    assert software("interrupt") == software("trace") == 2030


def test_what_nobody_published_is_refused():
    monitor = Paravirtual(ported("popf"))
    monitor.run()
    with pytest.raises(ValueError, match="no published cycles for the exits of Paravirtual"):
        bill(monitor)
    with pytest.raises(ValueError, match="generation 'Nehalem', allowed: Prescott, Merom"):
        vtx("cpuid", "Nehalem")
    with pytest.raises(ValueError, match="no cycles for 'EPT violation' on IvyBridge"):
        vtx("EPT violation", "IvyBridge")
    with pytest.raises(ValueError, match="operation 'fork' with 'bt', allowed: in, callret"):
        per_operation("fork", "bt")
