"""From results and a person's marks to a gradebook: plain CSV, and the forms that Moodle and Canvas import."""

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from .files import digest, read_json, write
from .notebook import Lab, LabError

FORMULA = r"=+\-@|%\uff1d\uff0b\uff0d\uff20"  # what begins a formula; the last four are the wide forms of the first


@dataclass
class Row:
    """One student's marks: what was computed, what a person said, and what is still open."""

    record: dict = field(repr=False)
    computed: dict[str, float]
    manual: dict[str, dict]  # task → {"points", "reason", "text"}
    unread: list[str]  # essay tasks that no person has marked, or that changed since

    @property
    def student(self) -> str:
        """The student's id."""
        return self.record["student"]

    def points(self, task: str) -> float:
        """The points for one task; a person's word is the last."""
        return self.manual[task]["points"] if task in self.manual else self.computed.get(task, 0.0)

    @property
    def total(self) -> float:
        """The points for the lab so far."""
        return round(sum(self.points(task) for task in {*self.computed, *self.manual}), 4)


def read_rows(out: Path, lab: Lab) -> list[Row]:
    """Return the rows of a gradebook folder, by student."""
    marks = read_json(out / "marks.json")
    records = [read_json(path) for path in sorted((out / "results").glob("*.json"))]
    return [_row(r, marks.get(r["student"], {}), lab) for r in sorted(records, key=lambda r: r.get("student", "")) if r]


def _row(record, manual, lab):
    computed = {task: 0.0 for task in lab.tasks}
    for outcome in record["outcomes"]:
        computed[outcome["task"]] = round(computed.get(outcome["task"], 0.0) + outcome["earned"], 4)
    unread = []
    for cell in (c for c in lab.cells if c.role == "essay"):
        text = record["essays"].get(cell.id, "")
        seen = manual.get(cell.task)
        if text and (seen is None or seen.get("text") not in (None, digest(text.encode())[:12])):
            unread.append(cell.task)
    return Row(record, computed, {t: m for t, m in manual.items() if t in computed}, unread)


def set_marks(out: Path, lab: Lab, marks: list[tuple[str, str, float, str]]):
    """Keep a person's marks, each (student, task, points, reason); they stand until replaced, whatever is regraded.

    Raises LabError for an unknown student or task, or for points that the task does not have; then none is kept.
    """
    rows = {row.student: row for row in read_rows(out, lab)}
    kept = read_json(out / "marks.json")
    for student, task, points, reason in marks:
        if student not in rows:
            raise LabError(f"{student!r} has no result in {out}; there are {len(rows)} students")
        if task not in lab.tasks:
            raise LabError(f"{lab.stem} has no task {task!r}; tasks are {', '.join(lab.tasks)}")
        if not 0 <= points <= lab.points(task):
            raise LabError(f"{points:g} points for {task} of {student!r}; allowed are 0 to {lab.points(task)}")
        mark = {"points": points, "reason": reason}
        for cell in lab.of(task, "essay"):
            mark["text"] = digest(rows[student].record["essays"].get(cell.id, "").encode())[:12]
        kept.setdefault(student, {})[task] = mark
    write(out / "marks.json", json.dumps(kept, indent=1, sort_keys=True))


def read_marks(path: Path) -> list[tuple[str, str, float, str]]:
    """Return the marks in a CSV file with the columns student, task, points, reason; rows without points are open."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=max(",;\t", key=head.count)))  # a spreadsheet has its own ideas
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise LabError(f"cannot read {path}: {e}") from None
    found = []
    for number, row in enumerate(rows, 2):
        try:
            if row["points"].strip():
                points = float(row["points"].replace(",", "."))
                found.append((_bare(row["student"]), row["task"], points, row.get("reason") or ""))
        except (KeyError, ValueError, AttributeError, TypeError):
            raise LabError(f"{path}, line {number}: expected student, task, points, reason") from None
    return found


def gradebook(rows: list[Row], lab: Lab) -> str:
    """Return the gradebook as CSV."""
    head = ["student", "name", *lab.tasks, "total", "points", "open", "note", "course", "lab", "seed"]
    body = []
    for row in rows:
        r = row.record
        note = r["problem"] or "; ".join(f"{t}: {m['reason']}" for t, m in row.manual.items() if m["reason"])
        marks = [*[f"{row.points(t):g}" for t in lab.tasks], f"{row.total:g}", sum(map(lab.points, lab.tasks))]
        body.append([r["student"], r["name"], *marks, " ".join(row.unread), note, r["course"], r["lab"], r["seed"]])
    return table([head, *body])


def moodle(rows: list[Row], lab: Lab) -> str:
    """Return the grades as Moodle's offline grading worksheet has them."""
    most = sum(map(lab.points, lab.tasks))
    body = [[f"Participant {r.student}", r.record["name"], f"{r.total:g}", most] for r in rows]
    return table([["Identifier", "Full name", "Grade", "Maximum Grade"], *body])


def canvas(rows: list[Row], lab: Lab) -> str:
    """Return the grades as Canvas imports them; the assignment's column is named after the lab."""
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", lab.stem]
    most = ["    Points Possible", "", "", "", "", sum(map(lab.points, lab.tasks))]
    body = [[r.record["name"] or r.student, r.student, "", "", "", f"{r.total:g}"] for r in rows]
    return table([head, most, *body])


def essays(rows: list[Row], lab: Lab) -> str:
    """Return the list of essays for a person to mark, in the form that `vlib marks --file` reads back."""
    body = []
    for row in rows:
        for cell in (c for c in lab.cells if c.role == "essay"):
            text = row.record["essays"].get(cell.id, "")
            mark = row.manual.get(cell.task, {})
            points = "" if cell.task in row.unread else f"{row.points(cell.task):g}"
            if text:
                body.append([row.student, cell.task, points, mark.get("reason", ""), cell.points, text[:30_000]])
    return table([["student", "task", "points", "reason", "out of", "text"], *body])


def table(rows: list[list]) -> str:
    """Return rows as CSV in which no field is a formula to a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([[_safe(value) if isinstance(value, str) else value for value in row] for row in rows])
    return file.getvalue()


def _safe(value):
    """Defuse what a spreadsheet would calculate: a leading quote makes it text. Numbers stay numbers."""
    value = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", value)
    # Where a semicolon separates, as in Excel in much of Europe, a field may begin in the middle of ours.
    value = re.sub(rf"([;\t\n]\s*)(?=[{FORMULA}])", r"\1'", value)
    if re.match(rf"[\s\ufeff\u200b]*[{FORMULA}]", value) and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        return "'" + value
    return value


def _bare(value):
    """Undo `_safe` on an id that comes back from a spreadsheet."""
    return value[1:] if re.match(rf"'[\s\ufeff\u200b]*[{FORMULA}]", value) else value
