import pytest
from small_lab import LABS

from vlib.grading.cli import main


def prove(trials):
    return main(["prove", "lab01", "--labs", str(LABS), "--trials", str(trials)])


@pytest.mark.sandbox
def test_the_small_lab_is_proved(capsys, sandbox_works):
    assert prove(LABS / "trials") == 0
    assert "5 submissions at 2 seeds, 0 not as expected" in capsys.readouterr().out


@pytest.mark.sandbox
def test_a_trial_that_earns_other_points_is_named(tmp_path, capsys, sandbox_works):
    (tmp_path / "half.py").write_text("# expect: evict=2/4\n\ndef victims(pages, room):\n    return pages[:room]\n")
    assert prove(tmp_path) == 1
    assert "half: evict earns 4, not 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "said"),
    [("evict=two", "not TASK=POINTS"), ("evicted=2", "tasks are"), ("evict=2/5", "the task has 4 points")],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header, said, capsys):
    (tmp_path / "bad.py").write_text(f"# expect: {header}\n")
    assert prove(tmp_path) == 2
    assert said in capsys.readouterr().err
