import json
import subprocess
import sys

import pytest
from small_lab import ANSWERS, LABS

from vlib.grading.checking import report
from vlib.grading.cli import main


def lines(path, seed=0):
    return list(report(path, seed, LABS))


def test_a_right_answer_earns_all_points(work):
    said = lines(work())
    assert [line.strip() for line in said if " of " in line and ":" in line and "check" not in line] == [
        "predict: 1 of 1",
        "count: 3 of 3",
        "mean: 2 of 2",
        "evict: 4 of 4",
    ]
    assert said[-1].startswith("10 of 10 points, 3 more are given by a person")


def test_another_seed_uses_the_solution(work):
    assert lines(work(), seed=7)[-1].startswith("10 of 10 points")


def test_expected_stands_beside_got_but_not_for_a_prediction(work, notebook):
    wrong = notebook(predict_answer="pages_needed = 2", mean_answer="def mean_gap(times):\n    return 0.5")
    said = "\n".join(lines(work(wrong)))
    assert "expected 0.52458" in said and "got 0.5\n" in said
    assert "predict: 0 of 1" in said and "expected 3" not in said


def test_prints_and_warnings_cost_nothing(work, notebook):
    noisy = "import warnings\nprint('hello')\n" + ANSWERS["count-answer"] + "\n"
    noisy = noisy.replace("    return sorted", "    print(addresses)\n    warnings.warn('slow')\n    return sorted")
    assert lines(work(notebook(count_answer=noisy)))[-1].startswith("10 of 10")


def test_a_dead_kernel_costs_its_task_only(work, notebook):
    said = lines(work(notebook(count_answer="import os\ndef dirty_pages(addresses):\n    os._exit(0)")))
    assert "  count: 0 of 3" in said and said[-1].startswith("7 of 10")
    assert any("ended Python" in line for line in said)


def test_the_course_s_lab_gives_the_targets_not_the_copy(work, notebook):
    nb = notebook(mean_answer="def mean_gap(times):\n    return 42")
    cell = next(c for c in nb["cells"] if c["id"] == "mean-check")
    cell["outputs"][0]["data"]["text/plain"] = "42"
    assert "  mean: 0 of 2" in lines(work(nb))


def test_from_a_cell_of_the_notebook(work, monkeypatch, capsys):
    monkeypatch.chdir(work().parent)
    from vlib.grading import check

    check("lab77")
    assert "there is no notebook 'lab77'" in capsys.readouterr().out


def test_plain_nbval_agrees_with_our_kernel(tmp_path, lab, notebook):
    """The lab with the solution in it is an nbval notebook as it stands."""
    nb = notebook()
    for ours, reference in zip(nb["cells"], lab.notebook["cells"], strict=True):
        if reference["id"].endswith("check") and "evict" not in reference["id"]:
            ours["outputs"], ours["execution_count"] = reference["outputs"], 1
    path = tmp_path / "solved.ipynb"
    path.write_text(json.dumps(nb))
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["check", "lab99"], "there is no notebook 'lab99'"),
        (["refresh", "lab99"], "no lab is called 'lab99'; there is: lab01_pages"),
    ],
)
def test_bad_input_is_one_line_and_status_2(command, said, capsys):
    assert main([*command, "--labs", str(LABS)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": 3}', "\0\1", "[" * 100_000])
def test_a_foreign_file_is_one_line(tmp_path, content, capsys):
    path = tmp_path / "lab01_pages.ipynb"
    path.write_text(content)
    assert main(["check", str(path), "--labs", str(LABS)]) == 2
    assert "not a notebook" in capsys.readouterr().err


def test_a_notebook_with_none_of_the_answers_is_one_line(work, capsys):
    foreign = work({"cells": [{"cell_type": "code", "source": "x = 1", "metadata": {}}]})
    assert main(["check", str(foreign), "--labs", str(LABS)]) == 2
    said = capsys.readouterr()
    assert "is no copy of lab01_pages: it defines none of pages_needed, " in said.err
    assert said.err.count("\n") == 1 and not said.out


def test_a_report_in_another_script_reaches_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")  # as on a system whose own encoding is not UTF-8
    from vlib.grading import check

    check("页")
    assert "there is no notebook '页'" in capsys.readouterr().out


def test_what_a_student_runs_needs_nothing_of_linux(work):
    """A stand-in for Windows: the modules and functions that it lacks are gone."""
    program = (
        "import sys, os\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'):\n    sys.modules[name] = None\n"
        "for name in ('fork', 'getuid', 'O_NOFOLLOW', 'O_NONBLOCK', 'setsid', 'waitid'):\n    delattr(os, name)\n"
        "import vlib.grading.course\nfrom vlib.grading.cli import main\n"
        f"sys.exit(main(['check', {str(work())!r}, '--labs', {str(LABS)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "10 of 10 points" in done.stdout, done.stderr


def test_a_module_beside_the_notebook_is_no_part_of_it(work, notebook):
    path = work(notebook(mean_answer="from my_helper import mean_gap"))
    (path.parent / "my_helper.py").write_text("def mean_gap(times):\n    return 1")
    assert any("No module named 'my_helper'" in line for line in lines(path))
