"""The pages that people read: feedback for each student, a summary of the class, pairs of similar answers."""

from collections import Counter
from html import escape

from .gradebook import Row
from .notebook import Lab

# No page loads or runs anything, whatever a student's output holds.
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: .5rem; border-radius: .3rem; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15rem .6rem; text-align: left; vertical-align: top; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
.bar {{ display: inline-block; height: .7rem; background: #47a; }}
.two {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }}
footer {{ margin-top: 3rem; font-size: .85rem; opacity: .8; }}
</style></head><body>
"""


def page(title: str, *parts: str) -> str:
    """Return a whole page; the parts are HTML already, the title is text."""
    return HEAD.format(title=escape(title)) + f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"


def feedback(row: Row, lab: Lab) -> str:
    """Return a student's page: points, hints and the student's own output, but nothing that was expected."""
    record = row.record
    most = sum(map(lab.points, lab.tasks))
    parts = [f"<p><strong>{row.total:g} of {most} points</strong></p>"]
    if row.unread:
        parts.append(f"<p>Not in this sum yet: {escape(', '.join(row.unread))}, which a person reads.</p>")
    if record["problem"]:
        parts.append(f"<p>{escape(record['problem'])}</p>")
    for task in lab.tasks:
        parts.append(f"<h2>{escape(task)}: {row.points(task):g} of {lab.points(task)}</h2>")
        if task in row.manual:
            parts.append(f"<p>Marked by a person. {escape(row.manual[task]['reason'])}</p>")
        parts += [_outcome(o, lab) for o in record["outcomes"] if o["task"] == task]
        for cell in lab.of(task, "essay"):
            parts.append(f"<pre>{escape(record['essays'].get(cell.id) or '(no text)')}</pre>")
    parts.append(_footer(record))
    return page(f"{lab.stem}: {record['name'] or row.student}", *parts)


def _outcome(outcome, lab):
    cell = next((c for c in lab.cells if c.id == outcome["cell"]), None)
    lines = [f"<p><strong>{escape(outcome['cell'])}</strong>: {outcome['earned']:g} of {outcome['points']}"]
    if outcome["why"]:
        lines.append(f"<br>{escape(outcome['why'])}")
    if outcome["fraction"] < 1 and cell and cell.hint:
        lines.append(f"<br>Hint: {escape(cell.hint)}")
    lines.append("</p>")
    own = "\n".join(outcome["shown"])[:4000]
    if outcome["fraction"] < 1 and own:
        lines.append(f"<details><summary>What your code gave</summary><pre>{escape(own)}</pre></details>")
    if outcome["fraction"] < 1 and outcome["printed"]:
        lines.append(f"<details><summary>What it printed</summary><pre>{escape(outcome['printed'])}</pre></details>")
    return "".join(lines)


def _footer(record):
    return (
        f"<footer>Course {escape(record['course'])}, lab {escape(record['lab'])}, seed {escape(record['seed'])}. "
        "The inputs of the marking differ from those in the notebook.</footer>"
    )


def summary(rows: list[Row], lab: Lab) -> str:
    """Return the class at a glance: the distribution for each task, and the commonest wrong answers."""
    most = sum(map(lab.points, lab.tasks))
    totals = sorted(row.total for row in rows)
    parts = []
    if rows:
        mean, median = sum(totals) / len(totals), totals[len(totals) // 2]
        parts.append(f"<p>{len(rows)} students, mean {mean:.2f}, median {median:g} of {most} points.</p>")
    problems = [(row.student, row.record["problem"]) for row in rows if row.record["problem"]]
    if problems:
        parts.append("<h2>Not marked</h2>" + _table([(s, p) for s, p in problems]))
    for task in lab.tasks:
        counts = Counter(row.points(task) for row in rows)
        parts.append(f"<h2>{escape(task)} ({lab.points(task)} points)</h2><table>")
        for points, count in sorted(counts.items()):
            bar = f'<span class="bar" style="width:{12 * count / len(rows):.2f}rem"></span>'
            parts.append(f'<tr><td class="n">{points:g}</td><td class="n">{count}</td><td>{bar}</td></tr>')
        parts.append("</table>")
        wrong = Counter()
        for row in rows:
            for o in row.record["outcomes"]:
                if o["task"] == task and o["fraction"] < 1:
                    wrong[o["cell"], o["error"] or " ".join(o["shown"])[:200] or o["why"]] += 1
        common = [(count, cell, said) for (cell, said), count in wrong.most_common(5) if count > 1]
        if common:
            parts.append("<p>Commonest wrong answers:</p>" + _table(common))
    return page(f"{lab.stem}: the class", *parts)


def _table(rows):
    cells = ["".join(f"<td>{escape(str(value))}</td>" for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def similarity(pairs: list, lab: Lab, threshold: float) -> str:
    """Return the pairs of similar answers, both sides shown."""
    parts = [f"<p>{len(pairs)} pairs of answers share at least {threshold:.0%} of their code's shape.</p>"]
    for pair in pairs:
        parts.append(f"<h2>{escape(pair.task)}: {escape(pair.one)} and {escape(pair.other)}, {pair.share:.0%}</h2>")
        sides = "".join(f"<pre>{escape(source)}</pre>" for source in pair.sources)
        parts.append(f'<div class="two">{sides}</div>')
    return page(f"{lab.stem}: similar answers", *parts)
