import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hostile import JUDGED, SOURCES
from small_lab import ANSWERS, JUDGES, SOLUTION, student_notebook

from vlib.grading.mark import Exam, Submission, grade, reference_outputs
from vlib.grading.marker import _at_most
from vlib.grading.notebook import LabError
from vlib.grading.sandbox import Limits

pytestmark = pytest.mark.sandbox
SEED = 12345
HONEST = {"mean": 2, "evict": 4}  # one task to attack, and one that must not feel it


@pytest.fixture(scope="module")
def exam(lab, sandbox_works):
    limits = Limits(seconds=6, memory=512 << 20, processes=16, disk=16 << 20, output=1 << 20)
    cells = [c for c in lab.notebook["cells"] if c["id"].split("-")[0] in ("setup", *HONEST)]
    return Exam(lab.stem, json.dumps(lab.notebook | {"cells": cells}), SOLUTION, JUDGES, limits)


@pytest.fixture(scope="module")
def marks(exam, lab):
    """Mark the whole corpus in one batch, an honest student after every fifth."""
    batch = {name: {"mean-answer": source} for name, (source, _) in SOURCES.items()}
    batch |= {f"judged_{name}": {"evict-answer": source} for name, source in JUDGED.items()}
    for i in range(len(batch) // 5):
        batch[f"honest_{i}"] = {}
    order = sorted(batch, key=lambda name: hash(name))
    files = {n: json.dumps(student_notebook({**ANSWERS, **batch[n]})).encode() for n in order}
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda name: grade(exam, Submission(name, files[name], SEED)), order)
        return dict(zip(order, results, strict=True))


def points(result):
    found = dict.fromkeys(HONEST, 0)
    for outcome in result.outcomes:
        found[outcome["task"]] += outcome["earned"]
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_an_attack_earns_what_it_deserves_and_harms_only_its_task(marks, name):
    deserved = SOURCES[name][1]
    found = points(marks[name])
    assert not marks[name].problem
    assert found == HONEST | {"mean": deserved}, [o["why"] for o in marks[name].outcomes]


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_survives(marks, name):
    result = marks[f"judged_{name}"]
    assert points(result) == HONEST | {"evict": 0}
    assert next(o["why"] for o in result.outcomes if o["task"] == "evict")


def test_honest_students_between_them_feel_nothing(marks):
    honest = [points(r) for name, r in marks.items() if name.startswith("honest")]
    assert honest == [HONEST] * len(honest) and len(honest) > 5


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("new_user_namespace_spy", ["[-1, -1, -1, -1]"]),
        ("memory_in_nameless_files_spy", ["1"]),
        ("mount_spy", ["-1"]),
        ("session_spy", ["0"]),
        ("system_memory_spy", ["[-1, -1]"]),
        ("privileges_spy", ["[]"]),
        ("files_spy", ["[]"]),
        ("processes_spy", ["[]"]),
        ("memory_spy", ["0"]),
    ],
)
def test_a_spy_finds_nothing(marks, name, found):
    assert next(o["shown"] for o in marks[name].outcomes if o["task"] == "mean") == found


def test_no_result_holds_what_was_expected(marks, exam):
    expected = reference_outputs(exam, SEED)["mean-check"][0]["data"]["text/plain"]
    for name, result in marks.items():
        wrong = next(o for o in result.outcomes if o["task"] == "mean")
        assert wrong["expected"] == []
        if wrong["fraction"] == 0:
            assert expected not in json.dumps(wrong), name


def test_a_result_stays_small_whatever_is_sent(marks):
    assert max(len(json.dumps(result.outcomes)) for result in marks.values()) < 20_000


def test_a_task_s_seed_is_its_own(exam):
    """The seed that one task's code can print is not that of a task whose future must stay unknown."""
    shown = []
    for name, source in (("mean-answer", "def mean_gap(times):\n"), ("evict-answer", "def victims(pages, room):\n")):
        data = json.dumps(student_notebook({**ANSWERS, name: source + "    print(SEED)\n    return [SEED]"})).encode()
        result = grade(exam, Submission("s", data, SEED))
        shown += [o["shown"][0] for o in result.outcomes if o["task"] == name.split("-")[0]]
    assert len({*shown, f"[{SEED}]"}) == 3


HEAVY = {
    "statements": [{"cell_type": "code", "source": "a = 1\n" * 30_000}],
    "blank lines": [{"cell_type": "code", "source": "(" + "\n" * 30_000}],
    "cells": [{}] * 200_000,
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_notebook_costs_nobody(exam, name):
    nb = student_notebook()
    nb["cells"] += HEAVY[name]
    assert points(grade(exam, Submission("s", json.dumps(nb).encode(), SEED))) == HONEST


def test_a_notebook_that_takes_too_long_to_read_is_the_student_s_problem():
    with pytest.raises(LabError, match="were not enough"), _at_most(0.05):
        while True:
            pass


def test_an_end_before_the_given_values_costs_its_task_only(exam):
    """What a given cell needs, the student's code can have broken: that is an answer, not an accident."""
    lab = json.loads(exam.lab)
    check = next(c for c in lab["cells"] if c["id"] == "mean-check")
    given = "times = np.random.default_rng(SEED).random(9).tolist()"
    check["source"] = "show(mean_gap(times))"
    at = lab["cells"].index(check)
    meta = {"vlib": {"task": "mean", "role": "given"}}
    lab["cells"].insert(
        at, {**check, "id": "mean-given", "metadata": meta, "source": given, "outputs": [], "execution_count": None}
    )
    with_given = replace(exam, lab=json.dumps(lab))
    for source, earned in (
        (ANSWERS["mean-answer"], 2),
        ("import os\nEND = os._exit(0)\ndef mean_gap(times):\n    return END", 0),
        ("import json\njson.loads = None\ndef mean_gap(times):\n    return json", 0),
    ):
        data = json.dumps(student_notebook({**ANSWERS, "mean-answer": source})).encode()
        result = grade(with_given, Submission("s", data, SEED))
        assert not result.problem and points(result) == HONEST | {"mean": earned}


def test_no_network(exam):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = (
            "def mean_gap(times):\n    import socket\n    try:\n"
            f"        socket.create_connection(('127.0.0.1', {port}), 1)\n        return 'connected'\n"
            "    except OSError:\n        return 'refused'"
        )
        data = json.dumps(student_notebook({**ANSWERS, "mean-answer": source})).encode()
        result = grade(exam, Submission("net", data, SEED))
    assert next(o["shown"] for o in result.outcomes if o["task"] == "mean") == ['"refused"']


def test_nothing_is_shared_between_submissions(exam):
    write = "import numpy\nopen('/scratch/note', 'w').write('x')\nopen('/dev/shm/note', 'w').write('x')\n"
    left = (
        "def mean_gap(times):\n    import os, numpy\n    "
        + write.replace("\n", "\n    ")
        + "numpy.mark = 1\n    return 0"
    )
    look = "def mean_gap(times):\n    import os, numpy\n    return [*os.listdir('/scratch'), *os.listdir('/dev/shm'), hasattr(numpy, 'mark')]"
    shown = []
    for source in (left, look):
        data = json.dumps(student_notebook({**ANSWERS, "mean-answer": source})).encode()
        result = grade(exam, Submission("s", data, SEED))
        shown.append(next(o["shown"] for o in result.outcomes if o["task"] == "mean"))
    assert shown == [["0"], ["[false]"]]


def test_whoever_marks_is_nobody(exam):
    """As root, every process that touches a submission has another user."""
    from vlib.grading.mark import _desk

    grade(exam, Submission("s", b"{}", SEED))
    if os.getuid() == 0:
        for process in _desk(exam).processes:
            tree = [process.pid]
            users = set()
            for pid in tree:
                with open(f"/proc/{pid}/task/{pid}/children") as file:
                    tree += map(int, file.read().split())
                with open(f"/proc/{pid}/status") as status, open(f"/proc/{pid}/cmdline") as command:
                    uid = next(line.split()[1] for line in status if line.startswith("Uid:"))
                    if "bwrap" not in command.read().split("\0")[0]:
                        users.add(uid)
            assert users == {"65534"}
