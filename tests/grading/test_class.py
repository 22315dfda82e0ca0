import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_lab import ANSWERS, JUDGES, LABS, SOLUTION, student_notebook

from vlib.grading import files
from vlib.grading.batch import mark_class, seed_for, seed_id
from vlib.grading.cli import main
from vlib.grading.gradebook import read_marks
from vlib.grading.mark import Exam, reference_outputs
from vlib.grading.notebook import LabError
from vlib.grading.submissions import find

pytestmark = pytest.mark.sandbox
WRONG = "def mean_gap(times):\n    print('<b>')\n    return '</pre><script>alert(1)</script>'"
SECRET = b"0123456789abcdef"


def put(folder, student, **answers):
    path = folder / student / "lab01_pages.ipynb"
    path.parent.mkdir(parents=True)
    answers = {k.replace("_", "-"): v for k, v in answers.items()}
    path.write_text(json.dumps(student_notebook({**ANSWERS, **answers})))
    return path


def grade(submissions, out, *options):
    return main(["grade", "lab01", str(submissions), "--out", str(out), "--labs", str(LABS), *options])


def rows(out):
    with open(out / "gradebook.csv", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def states(out):
    return {p.name: p.stat().st_mtime_ns for p in (out / "results").glob("*.json")}


@pytest.fixture(scope="module")
def graded(tmp_path_factory, sandbox_works):
    folder = tmp_path_factory.mktemp("class")
    submissions, out = folder / "in", folder / "out"
    put(submissions, "ada", explain_essay="=cmd|x\nBecause of tables.")
    put(submissions, "bob", mean_answer=WRONG)
    put(submissions, "eve", mean_answer="def mean_gap(times:\n    pass")
    put(submissions, "=1+1")
    put(submissions, "zed", explain_essay="\ud800 half a pair; =1+1\n=2+2")
    for name, data in {"torn": b'{"cells": [', "empty": b"", "large": b"0" * 50_000_000}.items():
        (submissions / name).mkdir()
        (submissions / name / "lab01.ipynb").write_bytes(data)
    (submissions / "link").mkdir()
    (submissions / "link" / "lab01.ipynb").symlink_to(submissions / "ada" / "lab01_pages.ipynb")
    status = grade(submissions, out)
    return submissions, out, status


def test_every_student_gets_what_is_deserved(graded):
    totals = {student: float(row["total"]) for student, row in rows(graded[1]).items()}
    assert totals == {"ada": 10, "bob": 8, "eve": 8, "'=1+1": 10, "zed": 10, "torn": 0, "empty": 0, "large": 0}


def test_what_cannot_be_read_ends_with_status_2_and_the_rest_is_kept(graded):
    assert graded[2] == 2 and "link" not in rows(graded[1])


def test_every_mark_says_what_it_rests_on(graded):
    for row in rows(graded[1]).values():
        assert row["course"] == files.course_version() and len(row["lab"]) == 12 and len(row["seed"]) == 8


def test_feedback_shows_the_student_s_own_output_escaped_and_nothing_expected(graded):
    out = graded[1]
    page = (out / "feedback" / "bob.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "<b>" not in page
    assert "there is one gap less than there are times" in page and "default-src 'none'" in page
    exam = Exam("lab01_pages", (LABS / "lab01_pages.ipynb").read_text(), SOLUTION, JUDGES)
    seed = seed_for((out / "secret").read_bytes().strip(), "lab01_pages")
    expected = reference_outputs(exam, seed)["mean-check"][0]["data"]["text/plain"]
    for path in out.rglob("*"):
        if path.is_file() and not {"ada", "zed", "1-1"} & set(re.split("[.~]", path.name)):
            text = path.read_text()
            assert str(seed) not in text
            assert expected not in text or path.name == "similarity.html", path


def test_no_field_is_a_formula(graded):
    for name in ("gradebook.csv", "essays.csv", "moodle.csv", "canvas.csv"):
        with open(graded[1] / name, newline="") as file:
            assert not [f for row in csv.reader(file) for f in row if f[:1] in ("=", "+", "@")]
        with open(graded[1] / name, newline="") as file:  # as a spreadsheet reads it where semicolons separate
            assert not [f for row in csv.reader(file, delimiter=";") for f in row if f.lstrip()[:1] in ("=", "+", "@")]


def test_the_import_forms(graded):
    assert "Participant bob,,8,13" in (graded[1] / "moodle.csv").read_text()
    assert "bob,bob,,,,8" in (graded[1] / "canvas.csv").read_text()


def test_the_unchanged_is_kept_and_the_changed_is_marked_again(graded):
    submissions, out, _ = graded
    before = states(out)
    bob = submissions / "bob" / "lab01_pages.ipynb"
    text = bob.read_text()
    bob.write_text(json.dumps(student_notebook()))
    grade(submissions, out)
    after = states(out)
    assert {name for name in after if after[name] != before[name]} == {"bob.json"}
    assert float(rows(out)["bob"]["total"]) == 10
    bob.write_text(text)
    grade(submissions, out, "--only", "bob")
    assert float(rows(out)["bob"]["total"]) == 8


def test_a_person_s_marks_survive_regrading(graded):
    submissions, out, _ = graded
    labs = ["--labs", str(LABS)]
    assert main(["marks", str(out), "--mark", "ada", "explain", "2.5", "--reason", "clear", *labs]) == 0
    assert main(["marks", str(out), "--mark", "bob", "mean", "1", "--reason", "half right", *labs]) == 0
    (out / "results" / "ada.json").unlink()
    grade(submissions, out)
    found = rows(out)
    assert (found["ada"]["total"], found["bob"]["total"]) == ("12.5", "9")
    assert "half right" in (out / "feedback" / "bob.html").read_text()


def test_marks_come_back_from_a_spreadsheet_with_semicolons_and_decimal_commas(tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text("\ufeffstudent;task;points;reason\nada;explain;2,5;clear\nbob;explain;;\n'=1+1;explain;1;\n")
    assert read_marks(path) == [("ada", "explain", 2.5, "clear"), ("=1+1", "explain", 1.0, "")]
    path.write_text("points,task,student\n1,explain\n")
    with pytest.raises(LabError, match="line 2"):
        read_marks(path)


@pytest.mark.parametrize(
    "mark", [["zoe", "mean", "1"], ["ada", "meen", "1"], ["ada", "mean", "3"], ["ada", "mean", "x"]]
)
def test_a_mark_that_makes_no_sense_is_refused(graded, mark, capsys):
    assert main(["marks", str(graded[1]), "--mark", *mark, "--labs", str(LABS)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_with_personal_inputs_a_neighbour_s_output_fails(tmp_path, sandbox_works):
    exam = Exam("lab01_pages", (LABS / "lab01_pages.ipynb").read_text(), SOLUTION, JUDGES)
    theirs = reference_outputs(exam, seed_for(SECRET, exam.stem, "ada"))["mean-check"][0]["data"]["text/plain"]
    for student in ("ada", "bob"):
        put(tmp_path / "in", student, mean_answer=f"def mean_gap(times):\n    return {theirs}")
    mark_class(exam, find(tmp_path / "in", exam.stem)[0], tmp_path / "out", SECRET, personal=True)
    earned = {}
    for student in ("ada", "bob"):
        result = json.loads((tmp_path / "out" / "results" / f"{student}.json").read_text())
        earned[student] = sum(o["earned"] for o in result["outcomes"])
    assert earned == {"ada": 10, "bob": 8}


def test_seeds_are_keyed():
    assert seed_for(SECRET, "lab01") != seed_for(b"x" * 16, "lab01") and seed_for(SECRET, "lab01") != 0
    assert seed_id(SECRET, "lab01") not in hex(seed_for(SECRET, "lab01"))


def test_killed_at_any_moment_it_redoes_only_what_was_not_finished(tmp_path, sandbox_works):
    submissions, out = tmp_path / "in", tmp_path / "out"
    for i in range(8):
        put(submissions, f"s{i}")
    command = [sys.executable, "-m", "vlib.grading.cli", "grade", "lab01", str(submissions)]
    command += ["--out", str(out), "--labs", str(LABS), "--jobs", "2"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(list(out.glob("results/*.json"))) < 2 and child.poll() is None:
        time.sleep(0.02)
    started = descendants(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = states(out)
    assert 2 <= len(kept) < 8 and all(json.loads((out / "results" / n).read_text()) for n in kept)
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started and not [pid for pid in started if alive(pid)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert {n: t for n, t in states(out).items() if n in kept} == kept
    assert len(rows(out)) == 8 and {row["total"] for row in rows(out).values()} == {"10"}
    assert not list(out.rglob("*.part"))


def descendants(pid):
    found = [pid]
    for parent in found:
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            found += map(int, file.read().split())
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split() if int(child) not in found]
    return found[1:]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_is_one_line_and_leaves_no_part(tmp_path, monkeypatch):
    (tmp_path / "gradebook.csv").write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(LabError, match="No space left on device"):
        files.write(tmp_path / "gradebook.csv", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["gradebook.csv"] and (
        tmp_path / "gradebook.csv"
    ).read_text() == "old"


def test_two_at_once_are_refused(tmp_path):
    with files.locked(tmp_path), pytest.raises(LabError, match="another vlib"), files.locked(tmp_path):
        pass


def test_without_a_sandbox_it_refuses(tmp_path, monkeypatch, capsys):
    put(tmp_path / "in", "ada")
    monkeypatch.setenv("PATH", str(tmp_path))
    from vlib.grading import sandbox

    sandbox.trouble.cache_clear()
    try:
        assert grade(tmp_path / "in", tmp_path / "out") == 2
    finally:
        sandbox.trouble.cache_clear()
    assert "bubblewrap (bwrap) is not installed" in capsys.readouterr().err


def test_unsafe_marks_without_a_sandbox(tmp_path):
    put(tmp_path / "in", "ada", mean_answer="import os\ndef mean_gap(times):\n    os._exit(0)")
    assert grade(tmp_path / "in", tmp_path / "out", "--unsafe") == 0
    assert rows(tmp_path / "out")["ada"]["total"] == "8"
