"""Make a lab's reference outputs from its solution, and refuse those that an answer could guess."""

import ast
from dataclasses import replace

from .compare import Marker, assemble, run
from .extract import Answer, extract, from_python
from .notebook import Lab, LabError

GUESSES = ("None", "0", "1", "True", "[]")


def own_outputs(lab: Lab) -> dict[str, list]:
    """Return the reference outputs that stand in the lab itself (seed 0); refuse cells that were never run."""
    for cell in (c for c in lab.cells if c.role == "check"):
        if not cell.outputs:
            raise LabError(f"{lab.stem}, cell {cell.id!r} has no reference output; run: vlib refresh {lab.stem}")
    return {c.id: c.outputs for c in lab.cells if c.role == "check"}


def references(lab: Lab, solution: str, marker: Marker) -> dict[str, list]:
    """Return the outputs of each check cell that the solution gives with the marker's seed.

    Raises LabError where the solution fails its own lab or a check shows nothing.
    """
    outputs = {}
    for outcome in run(assemble(lab, extract(lab, from_python(solution)), marker.seed, None), marker):
        if outcome.error or not outcome.shown:
            why = outcome.why or "it shows nothing"
            raise LabError(f"{lab.stem}, cell {outcome.cell!r}: the solution gives no reference: {why}")
        outputs[outcome.cell] = [
            {"output_type": "display_data", "data": {"text/plain": line}, "metadata": {}} for line in outcome.shown
        ]
    return outputs


def guessable(lab: Lab, expected: dict[str, list], marker: Marker, other: dict[str, list] | None = None) -> list[str]:
    """Return a line for each check whose points a constant answer, or one's argument, would earn.

    `other` gives the references of another seed: a check of code (not of a prediction) that says the same for both
    seeds could be answered by a literal.
    """
    found = []
    checked = [c for c in lab.cells if c.role == "check" and not lab.predicts(c.task)]
    for cell in checked:
        if other is not None and not cell.judge and expected[cell.id] == other[cell.id]:
            found.append(f"{cell.id} is the same for two seeds")
    names = {c.id for c in checked}
    for guess in (*GUESSES, "its argument", "the unsolved lab"):
        answers = _guesses(lab, guess)
        found += [
            f"{o.cell} is earned by {guess}"
            for o in run(assemble(lab, answers, marker.seed, expected), marker)
            if o.cell in names and o.fraction == 1 and o.points
        ]
    return found


def checked_references(lab: Lab, solution: str, marker: Marker) -> dict[str, list]:
    """Return the references for the marker's seed, having made sure that no check can be earned by guessing."""
    expected = references(lab, solution, marker)
    other = references(lab, solution, replace(marker, seed=marker.seed + 1))
    found = guessable(lab, expected, marker, other)
    if found:
        raise LabError(f"{lab.stem} has targets that can be guessed: {'; '.join(found)}")
    return expected


def _guesses(lab, guess):
    """Return answers in which every function and method gives back `guess`, and every other name is bound to it."""
    answers = {}
    for task in lab.tasks:
        if not lab.of(task, "check"):
            continue
        source = "\n".join(c.source for c in lab.of(task, "answer", "predict"))
        tree = ast.parse(source)
        if guess != "the unsolved lab":
            value = "None" if guess == "its argument" else guess
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    args = [a.arg for a in node.args.args if a.arg != "self"]
                    result = args[0] if guess == "its argument" and args else value
                    node.body = ast.parse(f"return {result}" if node.name != "__init__" else "pass").body
            for node in tree.body:
                if isinstance(node, ast.Assign):
                    node.value = ast.parse(value, mode="eval").body
        answers[task] = Answer(ast.unparse(tree))
    return answers
