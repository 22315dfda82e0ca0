import copy
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lab import ANSWERS, LABS, student_notebook

from vlib.grading.extract import essays, extract
from vlib.grading.notebook import LabError, parse_lab, read_lab, read_notebook

LAB = read_lab(LABS / "lab01_pages.ipynb")
TASKS = ("predict", "count", "mean", "evict")


def works(nb, tasks=TASKS):
    """Say which tasks the definitions taken from `nb` solve."""
    right = set()
    for task, answer in extract(LAB, nb).items():
        names = {"np": np}
        try:
            exec(answer.source, names)
            value = {
                "predict": lambda n: n["pages_needed"] == 3,
                "count": lambda n: n["dirty_pages"]([5000, 0, 1, 9000]) == [0, 1, 2],
                "mean": lambda n: n["mean_gap"]([0, 1, 4]) == 2,
                "evict": lambda n: len(n["victims"]([1, 2, 3], 2)) == 2,
            }[task](names)
        except Exception:
            value = False
        if value:
            right.add(task)
    return right


def shuffled(nb, rng):
    rng.shuffle(nb["cells"])


def duplicated(nb, rng):
    nb["cells"] += copy.deepcopy(nb["cells"])


def stubs_kept_below(nb, rng):
    nb["cells"] += copy.deepcopy(LAB.notebook["cells"])


def checks_deleted(nb, rng):
    nb["cells"] = [c for c in nb["cells"] if "check" not in c["id"] and c["id"] != "setup"]


def identities_lost(nb, rng):
    for cell in nb["cells"]:
        cell.pop("id")
        cell["metadata"] = {}


def retyped(nb, rng):
    for cell in nb["cells"]:
        if cell["id"] == rng.choice(["mean-answer", "count-answer"]):
            cell["cell_type"] = rng.choice(["raw", "markdown"])


def sources_as_lists(nb, rng):
    for cell in nb["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)


def windows_line_ends(nb, rng):
    for cell in nb["cells"]:
        cell["source"] = cell["source"].replace("\n", "\r\n")


def magics_everywhere(nb, rng):
    for cell in nb["cells"]:
        if cell["id"].endswith("answer"):
            cell["source"] = "%%time\n%matplotlib inline\n!ls\n" + cell["source"] + "\n%timeit 1\nmean_gap?\nx = !ls"


def scratch_work(nb, rng):
    broken = {"cell_type": "code", "metadata": {}, "source": "def half(:\n  pass"}
    noise = {
        "cell_type": "code",
        "metadata": {},
        "source": "a = 1/0\nresult = undefined_thing\ndel PAGE\nTIMES = input()",
    }
    nb["cells"].insert(rng.randrange(len(nb["cells"])), broken)
    nb["cells"].append(noise)


def old_format(nb, rng):
    cells = nb.pop("cells")
    for cell in cells:
        if cell["cell_type"] == "code":
            cell["input"] = cell.pop("source")
    nb.update(nbformat=3, nbformat_minor=0, worksheets=[{"cells": cells}])


def garbage_cells(nb, rng):
    nb["cells"] += [None, 3, {}, {"cell_type": "code"}, {"cell_type": "code", "source": 5, "metadata": []}]


DAMAGE = [shuffled, duplicated, stubs_kept_below, checks_deleted, retyped, windows_line_ends, magics_everywhere]
DAMAGE += [scratch_work, garbage_cells, sources_as_lists, identities_lost, old_format]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_damage_costs_nothing(damage):
    nb = student_notebook()
    damage(nb, random.Random(1))
    assert works(read_notebook(json.dumps(nb).encode())) == set(TASKS)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(DAMAGE[:7]), max_size=3), st.sampled_from(DAMAGE[7:]), st.randoms(use_true_random=False)
)
def test_no_false_zero_in_a_random_class(damages, last, rng):
    nb = student_notebook()
    for damage in [*damages, last]:
        damage(nb, rng)
    assert works(read_notebook(json.dumps(nb).encode())) == set(TASKS)


def test_a_syntax_error_costs_its_task_only():
    nb = student_notebook({**ANSWERS, "mean-answer": "def mean_gap(times)\n    return 1"})
    assert works(nb) == {"predict", "count", "evict"}
    assert "line 1: expected ':'" in extract(LAB, nb)["mean"].problem


@pytest.mark.parametrize(
    "source",
    [
        "import math\nfrom functools import cache\n@cache\ndef gaps(n):\n    return n - 1\ndef mean_gap(times):\n    return (times[-1] - times[0]) / gaps(len(times))",
        "TABLE = {}\nTABLE['one'] = 1\nfor i in range(1):\n    TABLE[i] = i\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - TABLE['one'])",
        "ones = []\nones.append(1)\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - ones[0])",
        "n = 0\nn += 1\nn = n * 1\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - n)",
        "ONE = one()\ndef one():\n    return UNIT\nUNIT = 1\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - ONE)",
        "class Gaps:\n    def __init__(self, t):\n        self.t = t\n    def mean(self):\n        return (self.t[-1] - self.t[0]) / (len(self.t) - 1)\ndef mean_gap(times):\n    return Gaps(times).mean()",
        "mean_gap = lambda times: (times[-1] - times[0]) / (len(times) - 1)",
        "from numpy import *\ndef mean_gap(times):\n    return float(mean(diff(times)))",
        "def mean_gap(times):\n    return 7\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - 1)",
        "from __future__ import annotations\ndef mean_gap(times: List[float]) -> Nowhere:\n    return (times[-1] - times[0]) / (len(times) - 1)",
        "import heapq\nones = [3]\nheapq.heappush(ones, 1)\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - ones[0])",
        "ones = {}\ndef build():\n    ones[0] = 1\nbuild()\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - ones[0])",
        "class Graph(dict):\n    def join(self, a, b):\n        self[a] = b\ng = Graph()\ng.join(0, 1)\ng.tried_out()\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - g[0])",
        "import random\nrandom.seed(5)\nodd = random.random()\ndef mean_gap(times):\n    assert odd == 0.6229016948897019\n    return (times[-1] - times[0]) / (len(times) - 1)",
        "import sys\nsys.setrecursionlimit(3000)\ndef deep(n):\n    return n and 1 + deep(n - 1)\ndef mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - deep(2000) + 1999)",
        "def mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - 1)\nawait mean_gap([])\nprint(mean_gap([]))",
        "try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\ndef mean_gap(times):\n    assert nowhere is None\n    return (times[-1] - times[0]) / (len(times) - 1)",
        "counter = 0\ndef mean_gap(times):\n    global counter\n    counter += 1\n    return (times[-1] - times[0]) / (len(times) - counter)",
    ],
)
def test_what_an_answer_needs_comes_with_it(source):
    assert "mean" in works(student_notebook({**ANSWERS, "mean-answer": source}))


def test_each_task_keeps_its_own_helper():
    first = "def step(x):\n    return x // 4096\ndef dirty_pages(addresses):\n    return sorted({step(a) for a in addresses})"
    second = (
        "def step(x):\n    return x - 1\ndef mean_gap(times):\n    return (times[-1] - times[0]) / step(len(times))"
    )
    assert works(student_notebook({**ANSWERS, "count-answer": first, "mean-answer": second})) == set(TASKS)


def test_scratch_work_of_the_same_name_as_a_local_is_not_run():
    nb = student_notebook({**ANSWERS, "count-try": "total = 1/0\n"})
    nb["cells"][-1]["source"] = ""
    source = "def mean_gap(times):\n    total = times[-1] - times[0]\n    return total / (len(times) - 1)"
    assert "mean" in works(student_notebook({**ANSWERS, "count-try": "total = 1/0", "mean-answer": source}))


@pytest.mark.parametrize("source", ["pages_needed = int('3')", "import math\npages_needed = math.ceil(2.4)"])
def test_a_prediction_is_worked_out_by_hand(source):
    answer = extract(LAB, student_notebook({**ANSWERS, "predict-answer": source}))["predict"]
    assert "by hand" in answer.problem and not answer.source


def test_a_prediction_may_be_arithmetic():
    assert "predict" in works(student_notebook({**ANSWERS, "predict-answer": "a = 4\npages_needed = a - 1"}))


def test_an_essay_is_found_without_its_id():
    nb = student_notebook({**ANSWERS, "explain-essay": "Because."})
    assert essays(LAB, nb) == {"explain-essay": "Because."}
    identities_lost(nb, None)
    assert essays(LAB, nb) == {"explain-essay": "Because."}
    assert essays(LAB, student_notebook()) == {"explain-essay": ""}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["cells", "source", "metadata", "vlib", "cell_type", "id", "worksheets", "input", "role"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_is_read_or_refused(value):
    try:
        nb = read_notebook(json.dumps(value).encode())
    except LabError:
        return
    extract(LAB, nb)
    essays(LAB, nb)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_cell_never_stops_the_rest(data):
    nb = student_notebook()
    cell = data.draw(st.sampled_from(nb["cells"]))
    key = data.draw(st.sampled_from(["source", "metadata", "cell_type", "id", "outputs"]))
    cell[key] = data.draw(JSON)
    assert len(works(read_notebook(json.dumps(nb).encode()))) >= len(TASKS) - 1


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data):
    try:
        read_notebook(data)
    except LabError as e:
        assert "\n" not in str(e)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_source_is_taken_or_refused(source):
    extract(LAB, student_notebook({**ANSWERS, "mean-answer": source}))


@pytest.mark.parametrize(
    "source",
    [
        "(" * 5000,
        "-" * 50_000 + "1",
        "x" + "+1" * 20_000,
        "[" * 150 + "]" * 150,
        "\0",
        "def f():\n\treturn 1\n        return 2",
    ],
)
def test_source_that_breaks_parsers(source):
    assert works(student_notebook({**ANSWERS, "mean-answer": source})) == {"predict", "count", "evict"}


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"role": "chek", "task": "mean"}, "roles are"),
        ({"role": "check", "task": "mean", "points": "2"}, "points '2'"),
        ({"role": "check", "task": "mean", "points": 2, "ponits": 1}, "ponits"),
        ({"role": "check", "task": "new", "points": 2}, "no answer cell"),
    ],
)
def test_a_lab_that_makes_no_sense_is_refused(meta, said):
    nb = copy.deepcopy(LAB.notebook)
    nb["cells"][-1] = {
        "cell_type": "code",
        "id": "z",
        "metadata": {"vlib": meta},
        "source": "",
        "outputs": [],
        "execution_count": None,
    }
    with pytest.raises(LabError, match=said):
        parse_lab(nb, "lab01")


def test_nbval_s_markers_in_a_check_are_refused():
    nb = copy.deepcopy(LAB.notebook)
    next(c for c in nb["cells"] if c["id"] == "mean-check")["source"] += "\n# NBVAL_SKIP"
    with pytest.raises(LabError, match="markers"):
        parse_lab(nb, "lab01")
