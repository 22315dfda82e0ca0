"""Prove a lab: the reference earns all points, the unsolved lab none, each misconception loses what it should."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .compare import Marker, Outcome, assemble, run
from .extract import extract, from_python
from .notebook import Lab, LabError


@dataclass(frozen=True)
class Trial:
    """A proving submission and the points that it should earn for each checked task."""

    name: str
    notebook: dict
    expected: dict[str, float]


def read_trials(lab: Lab, solution: str, folder: Path) -> list[Trial]:
    """Return the solution, the unsolved lab, and the proving submissions in `folder`.

    A submission's definitions stand after the solution's, so it says only what it has otherwise; one called `unsolved`
    stands alone. A line `# expect: rounds=0 stop_rule=3/5` names the tasks that do not earn all their points.
    """
    full = {t: float(sum(c.points for c in lab.of(t, "check"))) for t in lab.tasks if lab.of(t, "check")}
    trials = [
        Trial("(the solution)", from_python(solution), full),
        Trial("(the unsolved lab)", lab.notebook, dict.fromkeys(full, 0.0)),
    ]
    for path in sorted(Path(folder).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        expected = full if path.stem != "unsolved" else dict.fromkeys(full, 0.0)
        expected = expected | _expected(path, source, full)
        cells = from_python(source)["cells"]
        if path.stem != "unsolved":
            cells = from_python(solution)["cells"] + cells
        trials.append(Trial(path.stem, {"cells": cells}, expected))
    return trials


def _expected(path, source, full):
    found = {}
    for line in re.findall(r"^#\s*expect:(.*)$", source, re.M):
        for word in line.split():
            match = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)(?:/(\d+))?", word)
            if not match or match[1] not in full:
                raise LabError(f"{path}: {word!r} is not TASK=POINTS; tasks are {', '.join(full)}")
            if match[3] and float(match[3]) != full[match[1]]:
                raise LabError(f"{path}: {word!r}, but the task has {full[match[1]]:g} points")
            found[match[1]] = float(match[2])
    return found


def prove(lab: Lab, trials: list[Trial], expected: dict[str, list], marker: Marker) -> Iterator[tuple[str, str]]:
    """Yield for each trial its name and what is wrong with its marks; empty if it earns what it should.

    A task has a kernel of its own, so an answer that an earlier trial gave too is not run again.
    """
    seen: dict[tuple, list[Outcome]] = {}
    for trial in trials:
        answers = {(task, a.source, a.problem): a for task, a in extract(lab, trial.notebook).items()}
        new = {key[0]: answer for key, answer in answers.items() if key not in seen}
        outcomes = run(assemble(lab, new, marker.seed, expected), marker) if new else []
        seen |= {key: [o for o in outcomes if o.task == key[0]] for key in answers if key[0] in new}
        found = {key[0]: seen[key] for key in answers}
        wrong = []
        for task, points in trial.expected.items():
            earned = round(sum(o.earned for o in found[task]), 4)
            if earned != points:
                why = "; ".join(o.why for o in found[task] if o.why)
                wrong.append(f"{task} earns {earned:g}, not {points:g}" + (f" ({why[:300]})" if why else ""))
        yield trial.name, "; ".join(wrong)
