import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostile import JUDGED, SOURCES
from small_lab import ANSWERS, JUDGES, SOLUTION, student_notebook

from vlib.grading.mark import Exam, Submission, grade, reference_outputs
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
