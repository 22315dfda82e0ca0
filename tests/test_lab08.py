"""Lab 8: its targets against the models, its judges against nonsense, and what each proving submission earns."""

import ast
import json
import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlib.grading import show as showing
from vlib.grading.compare import assemble, same, shown, with_seed
from vlib.grading.extract import bound_names, extract, from_python
from vlib.grading.notebook import read_lab, student_copy
from vlib.grading.prove import read_trials
from vlib.handover import MUTANTS, verdicts
from vlib.migration import downtime, precopy, total_time
from vlib.stop_rules import Rounds
from vlib.workloads import PAGE, Sweep

ROOT = Path(__file__).resolve().parents[1]
LAB = read_lab(ROOT / "labs" / "lab08_migration.ipynb")
JUDGES = runpy.run_path(str(ROOT / "labs" / "judges" / "lab08_migration.py"))
SOLUTION = (ROOT / "labs" / "solutions" / "lab08_migration.py").read_text()
TRIALS = {trial.name: trial for trial in read_trials(LAB, SOLUTION, ROOT / "tests" / "submissions" / LAB.stem)}
SEEDS = (0, 20)


globals_of_judges = JUDGES["stops"].__globals__
globals_of_judges["good_stops"] = cache(globals_of_judges["good_stops"])  # the same guests for every submission
HISTORY = cache(JUDGES["lab_history"])


@cache
def printed(answer: str, task: str, seed: int) -> dict[str, list[str]]:
    """Run a task's cells with an answer in this process, where nothing is hostile."""
    found, space = {}, {"__name__": "lab"}
    publish = showing.publish
    try:
        for cell in (c for c in LAB.cells if c.role == "setup"):
            exec(with_seed(cell.source, seed), space)
        space["lab_history"] = lambda guest, rounds: list(HISTORY(guest, rounds))
        exec(answer, space)
        for cell in LAB.of(task, "given"):
            exec(cell.source, space)
        for cell in LAB.of(task, "check"):
            lines = found[cell.id] = []
            showing.publish = lines.append
            exec(cell.source, space)
    except Exception:
        found = {}  # a check that raised has shown nothing that counts
    finally:
        showing.publish = publish
    return found


@cache
def points(answer: str, task: str, seed: int) -> float:
    expected = printed(extract(LAB, from_python(SOLUTION))[task].source, task, seed)
    got, earned = printed(answer, task, seed), 0.0
    for cell in LAB.of(task, "check"):
        lines = got.get(cell.id, [])
        if cell.judge:
            fraction, why = JUDGES[cell.judge]([json.loads(line) for line in lines], seed)
            assert 0 <= fraction <= 1 and bool(why) == (fraction < 1)
        else:
            fraction = same(expected[cell.id], lines, cell.rtol, cell.atol)
        earned += cell.points * fraction
    return round(earned, 4)


@pytest.mark.parametrize("name", TRIALS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_submission_earns_what_it_should(name, seed):
    answers = extract(LAB, TRIALS[name].notebook)
    assert {task: points(answers[task].source, task, seed) for task in answers} == TRIALS[name].expected


def test_the_lab_is_proved_by_enough_submissions():
    lost = [sorted(t.expected.values()) for n, t in TRIALS.items() if not n.startswith("(")]
    full = max(lost, key=sum)
    assert lost.count(full) >= 2  # alternatives
    assert sum(case != full and any(case) for case in lost) >= 6  # misconceptions
    assert TRIALS["shortcut"].expected | {"rounds": 0, "handover": 0} == dict.fromkeys(TRIALS["shortcut"].expected, 0)


def test_the_prediction_is_what_the_model_does():
    trace = precopy(Sweep(pages=5, rate=1000), 12, 2000 * PAGE, Rounds(goal=1), activation_us=2000)
    solution = runpy.run_path(str(ROOT / "labs" / "solutions" / "lab08_migration.py"))
    assert solution["pages_sent"] == [r.sent for r in trace if r.phase == "pre-copy"]
    assert solution["downtime_us"] == downtime(trace)
    assert solution["total_us"] == total_time(trace)


def test_the_worked_examples_of_the_text_hold():
    trace = precopy(Sweep(pages=2, rate=1000), 6, 2000 * PAGE, Rounds(goal=1), activation_us=2000)
    assert [r.sent for r in trace if r.phase == "pre-copy"] == [6, 2]
    assert (downtime(trace), total_time(trace)) == (2500, 6500)
    space = {}
    exec("\n".join([LAB.of("", "setup")[0].source, SOLUTION]), space)
    example = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]], bool)
    assert [space["expected_dirty"](example, k) for k in (1, 2)] == [1.5, 2.0]
    assert [space["working_set"](example, k) for k in (1, 2)] == [[0], [0, 1]]
    missing = np.ones(1000, bool)
    missing[[900, 904, 908, 912, 90, 83, 76]] = False
    assert sorted(space["next_pages"]([900, 90, 83, 904, 908, 76], missing, 3)) == [62, 69, 916]
    assert verdicts([10])["b_runs_on_every_commit"] and not any(verdicts([3]).values())
    assert set(JUDGES["breaks"].__globals__["MUTANTS"]) - {"b_runs_on_every_commit"} == set(space["schedules"])


def test_the_judge_s_guests_are_the_lab_s():
    """The judge runs where the lab is not: it has the generators again, word for word."""
    judge = (ROOT / "labs" / "judges" / "lab08_migration.py").read_text()

    def generators(source):
        nodes = ast.parse(source).body
        return {n.name: ast.dump(n) for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith("lab_")}

    ours = generators("\n".join(c.source for c in LAB.cells if c.role == "setup"))
    theirs = generators(judge)
    assert set(theirs) == {"lab_guests", "lab_history", "lab_touches"}
    assert theirs == {name: ours[name] for name in theirs}


@pytest.mark.parametrize("seed", range(1000, 1008))
def test_a_limit_of_rounds_or_of_bytes_is_good_for_four_kinds_at_most(seed):
    good, last, limits = JUDGES["good_stops"](seed), JUDGES["LAST"], JUDGES["LIMITS"]
    assert good.any(axis=1).all()  # every kind has a good stop
    assert good.sum(axis=0).max() <= limits
    histories = [(g[0], JUDGES["lab_history"](g, last)) for g in JUDGES["lab_guests"](seed, 101)]
    for factor in np.arange(1, 5, 0.1):
        reached = 0
        for (memory, history), row in zip(histories, good, strict=True):
            sent = np.cumsum([s for s, _ in history])
            ends = [n for n in range(last) if history[n][1] <= 64 or sent[n] > factor * memory]
            reached += row[min([*ends, last - 1])]
        assert reached <= limits


@pytest.mark.parametrize("seed", range(2000, 2004))
@pytest.mark.parametrize("name", ["(the solution)", "alternative_plain", "alternative_sums"])
def test_right_answers_are_right_for_other_seeds(name, seed):
    answers = extract(LAB, TRIALS[name].notebook)
    for task in ("stop_rule", "prepaging"):
        assert points(answers[task].source, task, seed) == LAB.points(task)


def test_no_guest_s_later_rounds_reach_the_student():
    """Each guest is asked about once, so no history that is handed over continues another."""
    asked, space = [], {}
    for cell in (c for c in LAB.cells if c.role == "setup"):
        exec(cell.source, space)
    space["lab_history"] = lambda guest, rounds: asked.append((guest, rounds)) or []
    exec(LAB.of("stop_rule", "given")[0].source, space)
    assert sorted(rounds for _, rounds in asked) == sorted([*range(1, 21)] * 7)
    unseen = [guest for sibling in JUDGES["UNSEEN"] for guest in JUDGES["lab_guests"](0, sibling)]
    assert len({guest for guest, _ in asked} | set(unseen)) == 7 * 20 + 7 * 3


def test_for_marks_the_generators_of_the_future_have_no_seed():
    """With SEED, code could run the lab's own guests past the point of the decision."""
    answers = extract(LAB, from_python(SOLUTION))
    seed = 987_654_321
    space, expected = {}, {cell.id: [] for cell in LAB.cells if cell.role == "check"}
    for cell in (c for c in LAB.cells if c.role == "setup"):
        exec(with_seed(cell.source, seed), space)
    for task in ("stop_rule", "prepaging"):
        for cell in LAB.of(task, "given"):
            exec(cell.source, space)
            made = {name: space[name] for name in bound_names(cell.source)}
            line = showing.canonical(made)
            assert json.loads(line) == made
            expected[cell.id] = [{"output_type": "display_data", "data": {"text/plain": line}, "metadata": {}}]
        run = assemble(LAB, {task: answers[task]}, seed, expected)
        assert str(seed) not in "".join(cell["source"] for cell in run["cells"])
        kernel = {}
        for cell in run["cells"]:
            if cell["metadata"]["vlib"]["role"] != "check":
                exec(cell["source"], kernel)
        assert kernel["SEED"] == 0 and {name: kernel[name] for name in made} == made


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from([*MUTANTS, "x"]), inner, max_size=8),
    max_leaves=30,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON, max_size=8))
def test_nonsense_earns_nothing_and_has_a_reason(printed):
    for judge in ("prepages_one", "prepages_two", "prepages_strays", "breaks"):
        fraction, why = JUDGES[judge](printed, 0)
        assert fraction == 0 and why


@pytest.mark.parametrize(
    "printed",
    [
        [],
        [None] * 7,
        [[True] * 19] * 7,
        [[1] * 20] * 7,
        [[[True]] * 20] * 7,
        [[False] * 20] * 6,
        [{"0": True}] * 7,
        [[True] * 10**6] * 7,
    ],
)
def test_decisions_of_another_shape_earn_nothing(printed):
    assert JUDGES["stops"](printed, 0)[0] == 0


@pytest.mark.parametrize(
    "losses",
    [None, [], [0], [201], [True], [1.5], ["9"], [[5, 5]], [[-1, 9]], [[0, 10**7]], [[0, None]], [[1, 2, 3]], [1] * 9],
)
def test_a_schedule_out_of_bounds_is_refused(losses):
    fraction, why = JUDGES["breaks"]([dict.fromkeys(MUTANTS, losses)], 0)
    assert fraction == 0 and "b_keeps_reservation: not a list of 1 to 8 losses in range" in why


def test_pushing_more_than_asked_or_twice_earns_nothing():
    pages = [page for page, _ in zip(JUDGES["lab_touches"](0, 1, 0), range(42), strict=False)]
    assert JUDGES["prepages_one"]([pages[18:]] * 4, 0)[0] == 0  # 24 numbers for 16
    assert JUDGES["prepages_one"]([pages[18:19] * 16] * 4, 0)[0] == 0
    assert JUDGES["prepages_one"]([pages[18:34], *[[]] * 3], 0)[0] == 0.25


def test_the_student_s_copy_shows_no_answer():
    cells = {cell["id"]: cell for cell in student_copy(LAB.notebook)["cells"]}
    shown = {name for name, cell in cells.items() if cell.get("outputs")}
    assert shown == {"working-set-check-size", "working-set-check-pages"}
    for task in ("working_set", "stop_rule", "prepaging"):
        assert "raise NotImplementedError" in LAB.of(task, "answer")[0].source


def test_the_targets_in_the_lab_are_the_solution_s():
    for task, answer in extract(LAB, from_python(SOLUTION)).items():
        for cell in LAB.of(task, "check"):
            assert shown(cell.outputs) == printed(answer.source, task, 0)[cell.id]


def test_every_check_gives_a_hint_and_the_points_are_those_of_the_text():
    assert all(cell.hint for cell in LAB.cells if cell.role == "check")
    table = next(cell for cell in LAB.notebook["cells"] if cell["id"] == "title")["source"]
    table = "".join(table) if isinstance(table, list) else table
    said = [int(row.split("|")[3]) for row in table.splitlines() if row.startswith("| ") and row[2].isdigit()]
    assert said == [LAB.points(task) for task in LAB.tasks]
