"""The models against reality: measured migrations of QEMU, and published ones of Xen."""

import json
from statistics import median

import pytest

from bench.fit_clark05 import misfit
from vlib import fidelity
from vlib.costs import CLARK05_SPECWEB, CLARK05_STOP_AND_COPY_S
from vlib.migration import MBIT, bytes_sent, downtime, stop_and_copy
from vlib.workloads import PAGE, SECOND, Idle

POINTS = fidelity.load()
MORE = fidelity.load(fidelity.POINTS.with_name("qemu-migrations-2.json"))  # measured to try the model, not to make it


@pytest.mark.parametrize("point", POINTS + MORE, ids=lambda point: point["name"])
def test_qemu_measured_and_predicted_agree(point):
    rows = fidelity.qemu_rows(point)
    for row in rows:
        if row.quantity == "converges":
            assert set(row.model) == set(row.measured), row
        elif row.quantity == "downtime (ms)":
            off = abs(median(row.model) - min(max(median(row.model), min(row.measured)), max(row.measured)))
            assert off <= 15 or abs(row.error(median(row.model))) <= 0.2, row
        else:
            assert abs(row.error(median(row.model))) <= 0.05, row
    if all(run.get("completed", True) for run in point["runs"]):
        assert {row.quantity for row in rows} >= {"converges", "total (s)", "MB"}


def test_the_textbook_rule_is_far_off_on_a_long_downtime():
    rows = fidelity.qemu_rows(POINTS[1])
    [row] = [row for row in rows if row.quantity == "downtime (ms)"]
    assert abs(row.error(row.textbook)) > 0.5 > abs(row.error(median(row.model)))


@pytest.mark.parametrize("mbit", CLARK05_STOP_AND_COPY_S)
def test_stop_and_copy_takes_as_long_as_published(mbit):
    # 512 MB at so many Mbit/s; the published seconds fit decimal megabytes.
    trace = stop_and_copy(Idle(), 512_000_000 // PAGE, mbit * MBIT)
    assert downtime(trace) == pytest.approx(CLARK05_STOP_AND_COPY_S[mbit] * SECOND, rel=1e-4)


@pytest.mark.parametrize("guest", fidelity.FITTED["SPECweb99"])
def test_specweb_is_fitted_on_three_rounds_only(guest):
    published = CLARK05_SPECWEB["sent_mb"]
    trace = fidelity.clark05("SPECweb99", *guest)
    for round_, told in zip(trace[:3], published, strict=False):
        assert round_.bytes / 1e6 == pytest.approx(told, rel=0.03)
    assert trace[3].bytes / 1e6 == pytest.approx(published[3], rel=0.2)
    assert bytes_sent(trace) / 1e6 == pytest.approx(sum(published), rel=0.06)


@pytest.mark.parametrize("name", fidelity.FITTED)
def test_the_best_fit_is_first_and_no_neighbour_is_better(name):
    best, *others = fidelity.FITTED[name]
    least = misfit(name, best)
    neighbours = [
        tuple(round(value * (factor if i == j else 1)) for j, value in enumerate(best))
        for i in (1, 2)  # the two rates; several sizes of the hot set fit about as well
        for factor in (0.7, 1.4)
    ]
    for other in [*others, *neighbours]:
        assert misfit(name, other) >= least


def test_bad_files_are_named(tmp_path):
    def message(text):
        path = tmp_path / "points.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError) as error:
            [row for point in fidelity.load(path) for row in fidelity.qemu_rows(point)]
        return str(error.value)

    good = POINTS[0]
    assert "points.json is no file of measured points" in message("{")
    assert "points.json is no file of measured points" in message('{"point": []}')
    assert "point P1 has no ram_mib" in message(
        json.dumps({"points": [{k: v for k, v in good.items() if k != "ram_mib"}]})
    )
    for change, said in (
        ({"pattern": "zipf"}, "point P1 has pattern 'zipf', allowed: uniform or sequential"),
        ({"pattern": []}, "point P1 has pattern [], allowed: uniform or sequential"),
        ({"runs": 3}, "needs runs"),
        ({"runs": [3]}, "needs runs"),
        ({"runs": [{"total_s": "2", "sent_bytes": 1}]}, "has a run with total_s '2', allowed: numbers, 0 or more"),
        ({"working_set_pages": 10**8}, "has working_set_pages 100000000, allowed: 0 to the 32768 pages of its memory"),
        ({"working_set_pages": 0}, "has working_set_pages 0, allowed: 1 or more for 10 writes/s"),
        ({"filled_pages": -1}, "has filled_pages -1, allowed: whole numbers, 0 to"),
        ({"ram_mib": "big"}, "has ram_mib 'big', allowed: whole numbers, 1 to 1,048,576"),
        ({"bandwidth_mib_s": 0}, "has bandwidth_mib_s 0, allowed: numbers"),
        ({"bandwidth_mib_s": -32}, "has bandwidth_mib_s -32, allowed: numbers"),
        ({"downtime_limit_ms": None}, "has downtime_limit_ms None, allowed: numbers"),
    ):
        assert said in message(json.dumps({"points": [good | change]}))
    assert "needs runs" in message(json.dumps({"points": [POINTS[5] | {"runs": []}]}))
    for points in ([], {"P1": good}, None):
        assert "allowed: a list of one point or more" in message(json.dumps({"points": points}))
    assert "point 2 is 7, allowed: names with values" in message(json.dumps({"points": [good, 7]}))
    assert fidelity.main([str(tmp_path / "nothing.json")]) == 2


def test_an_idle_guest_is_a_point_too():
    idle = POINTS[0] | {"working_set_pages": 0, "writes_per_s": 0}
    told = {row.quantity: row.model for row in fidelity.qemu_rows(idle)}
    assert told["converges"] == (True,) * fidelity.GUESTS and min(told["MB"]) > POINTS[0]["filled_pages"] * PAGE / 1e6
