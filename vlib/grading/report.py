"""Write all that follows from the results: gradebook, feedback, summary, essays to read, similar answers."""

from collections.abc import Iterator
from pathlib import Path

from . import gradebook, pages
from .files import write
from .notebook import Lab
from .similarity import similar


def write_reports(out: Path, lab: Lab, threshold: float = 0.8) -> Iterator[str]:
    """Write the reports of the folder `out` and yield a line about each."""
    rows = gradebook.read_rows(out, lab)
    for name, text in (
        ("gradebook.csv", gradebook.gradebook(rows, lab)),
        ("moodle.csv", gradebook.moodle(rows, lab)),
        ("canvas.csv", gradebook.canvas(rows, lab)),
        ("essays.csv", gradebook.essays(rows, lab)),
        ("summary.html", pages.summary(rows, lab)),
    ):
        write(out / name, text)
        yield f"{out / name}"
    pairs = similar({row.student: row.record["sources"] for row in rows}, lab, threshold)
    write(out / "similarity.html", pages.similarity(pairs, lab, threshold))
    yield f"{out / 'similarity.html'}: {len(pairs)} pairs"
    for row in rows:
        write(out / "feedback" / f"{row.record['file']}.html", pages.feedback(row, lab))
    yield f"{out / 'feedback'}: {len(rows)} pages"
    unread = sum(len(row.unread) for row in rows)
    if unread:
        yield f"{unread} essays wait for a person: fill in essays.csv, then vlib marks {out} --file essays.csv"
