"""The small lab that the tests of the grading use. Run this file after a change, then `vlib refresh lab01 --labs tests/grading/labs`."""

import json
from pathlib import Path

from vlib.grading.notebook import student_copy

LABS = Path(__file__).parent / "labs"
SOLUTION = (LABS / "solutions" / "lab01_pages.py").read_text()
JUDGES = (LABS / "judges" / "lab01_pages.py").read_text()
ANSWERS = {
    "predict-answer": "pages_needed = 3",
    "count-answer": "PAGE = 4096\ndef page(address):\n    return address // PAGE\n"
    "def dirty_pages(addresses):\n    return sorted({page(a) for a in addresses})",
    "mean-answer": "def mean_gap(times):\n    return (times[-1] - times[0]) / (len(times) - 1)",
    "evict-answer": "def victims(pages, room):\n    return pages[-room:]",
}


def code(name, source, **vlib):
    cell = {"cell_type": "code", "id": name, "metadata": {"vlib": vlib} if vlib else {}, "source": source}
    return {**cell, "execution_count": None, "outputs": []}


def text(name, source, **vlib):
    return {"cell_type": "markdown", "id": name, "metadata": {"vlib": vlib} if vlib else {}, "source": source}


CELLS = [
    text("title", "# Lab 1: pages"),
    code("setup", "import numpy as np\n\nfrom vlib.grading.show import show\n\nSEED = 0", role="setup"),
    text("predict-text", "How many pages of 4096 bytes hold 10,000 bytes?"),
    code("predict-answer", "pages_needed = None", task="predict", role="predict"),
    code("predict-check", "show(pages_needed)", task="predict", role="check", points=1),
    text("count-text", "Count the dirty pages."),
    code(
        "count-answer",
        'def dirty_pages(addresses):\n    """Return the sorted numbers of the pages that `addresses` lie in."""\n    raise NotImplementedError',
        task="count",
        role="answer",
    ),
    code("count-try", "dirty_pages([0, 1, 5000])"),
    code(
        "count-check-few",
        "rng = np.random.default_rng(SEED)\nshow(dirty_pages(rng.integers(0, 100_000, 20).tolist()))",
        task="count",
        role="check",
        points=2,
        hint="a page has 4096 bytes",
    ),
    code(
        "count-check-many",
        "rng = np.random.default_rng(SEED + 1)\nshow(dirty_pages(rng.integers(0, 10**9, 500).tolist()))",
        task="count",
        role="check",
        points=1,
        hint="each page once",
    ),
    code(
        "mean-answer",
        'def mean_gap(times):\n    """Return the mean distance between neighbours of `times`."""\n    raise NotImplementedError',
        task="mean",
        role="answer",
    ),
    code(
        "mean-check",
        "rng = np.random.default_rng(SEED)\nshow(mean_gap(np.cumsum(rng.random(50)).tolist()))",
        task="mean",
        role="check",
        points=2,
        rtol=1e-6,
        hint="there is one gap less than there are times",
    ),
    code(
        "evict-answer",
        'def victims(pages, room):\n    """Return any `room` different pages of `pages` to evict."""\n    raise NotImplementedError',
        task="evict",
        role="answer",
    ),
    code(
        "evict-check",
        "rng = np.random.default_rng(SEED)\nfor room in (3, 5):\n    show(victims(rng.permutation(20).tolist(), room))",
        task="evict",
        role="check",
        points=4,
        judge="evicts",
        hint="no page twice",
    ),
    text("explain-essay", "*Explain why a page has 4096 bytes.*", task="explain", role="essay", points=3),
]


def student_notebook(answers=ANSWERS):
    """Return the unsolved lab as a student has it, with the sources of some cells replaced."""
    nb = student_copy(json.loads((LABS / "lab01_pages.ipynb").read_text()))
    for cell in nb["cells"]:
        cell["source"] = answers.get(cell["id"], cell["source"])
    return nb


if __name__ == "__main__":
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb = {"cells": CELLS, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (LABS / "lab01_pages.ipynb").write_text(json.dumps(nb, indent=1, sort_keys=True) + "\n")
