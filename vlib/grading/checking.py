"""Let students check their own copy of a lab: seed 0, targets shown, no sandbox, any system."""

import time
from pathlib import Path

from .compare import Marker, Outcome, assemble, run
from .extract import answer_names, extract
from .kernel import start_process
from .notebook import Lab, LabError, course_labs, find_lab, read_judges, read_lab, read_notebook, read_solution
from .reference import own_outputs, references

WIDE = 110  # characters of a value in the report


def find_copy(name: str) -> Path:
    """Return the path of the student's notebook called `name`."""
    if Path(name).is_file():
        return Path(name)
    stem = Path(name).name.removesuffix(".ipynb")
    folders = [Path(name).parent, Path(name).parent / "work"]
    found = [p for folder in folders for p in (*folder.glob(f"{stem}.ipynb"), *folder.glob(f"{stem}_*.ipynb"))]
    if not found:
        raise LabError(f"there is no notebook {name!r} here or in work/")
    return found[0]


def report(path: Path, seed: int = 0, labs: Path | None = None, solutions: Path | None = None):
    """Yield the lines of the report on the notebook at `path`."""
    began = time.monotonic()
    labs = labs or course_labs()
    lab = read_lab(find_lab(path.name, labs))
    try:
        saved = time.strftime("%H:%M:%S", time.localtime(path.stat().st_mtime))
        answers = extract(lab, read_notebook(path.read_bytes()))
    except OSError as e:
        raise LabError(f"cannot read {path}: {e.strerror}") from None
    except LabError as e:
        raise LabError(f"{path} is {e}") from None
    if all(answer.problem.endswith("is not defined") for answer in answers.values()):
        names = ", ".join(name for task in answers for name in answer_names(lab, task))
        raise LabError(f"{path} is no copy of {lab.stem}: it defines none of {names}")
    yield f"{path}, as saved at {saved} (what changed since then does not count: save, then check again)"
    marker = Marker(start_process, seed, read_judges(lab, labs))
    if seed == 0:
        expected = own_outputs(lab)
    else:
        expected = references(lab, read_solution(lab, solutions or labs / "solutions"), marker)
    outcomes = run(assemble(lab, answers, seed, expected), marker)
    for task in lab.tasks:
        yield from _task(lab, task, [o for o in outcomes if o.task == task], seed)
    earned, points = sum(o.earned for o in outcomes), sum(o.points for o in outcomes)
    essays = sum(c.points for c in lab.cells if c.role == "essay")
    rest = f", {essays} more are given by a person" if essays else ""
    yield f"{earned:g} of {points} points{rest}; {time.monotonic() - began:.1f} s"


def _task(lab: Lab, task: str, outcomes: list[Outcome], seed: int):
    if not outcomes:
        yield f"  {task}: {lab.points(task)} points, marked by a person"
        return
    earned, points = sum(o.earned for o in outcomes), sum(o.points for o in outcomes)
    yield f"  {task}: {earned:g} of {points}"
    for outcome in outcomes:
        cell = next(c for c in lab.cells if c.id == outcome.cell)
        if outcome.why:
            yield f"    {outcome.cell}: {outcome.why}"
        if outcome.fraction == 1:
            continue
        if cell.hint:
            yield f"    hint: {cell.hint}"
        if seed == 0 and not outcome.error and not cell.judge and not lab.predicts(task):
            yield from _differences(outcome)


def _differences(outcome):
    """Show the first line that differs, expected beside got, from where it differs."""
    if len(outcome.expected) != len(outcome.shown):
        yield f"    expected {len(outcome.expected)} shown values, got {len(outcome.shown)}"
    for number, (want, got) in enumerate(zip(outcome.expected, outcome.shown, strict=False), 1):
        if want != got:
            same = next(
                (i for i, (a, b) in enumerate(zip(want, got, strict=False)) if a != b), min(len(want), len(got))
            )
            start = max(0, same - WIDE // 2) if max(len(want), len(got)) > WIDE else 0
            yield f"    value {number}: expected {_window(want, start)}"
            yield f"    {' ' * len(f'value {number}')}       got {_window(got, start)}"
            return


def _window(text, start):
    return ("…" if start else "") + text[start : start + WIDE] + ("…" if len(text) > start + WIDE else "")
