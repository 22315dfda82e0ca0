import copy
import json

import pytest
from small_lab import ANSWERS, LABS

from vlib.grading.notebook import read_lab, student_copy

collect_ignore_glob = ["labs/*"]


@pytest.fixture(scope="session")
def lab():
    return read_lab(LABS / "lab01_pages.ipynb")


@pytest.fixture
def notebook(lab):
    """Build a student's notebook: the unsolved lab with the sources of some cells replaced."""

    def build(answers=ANSWERS, **more):
        nb = student_copy(copy.deepcopy(lab.notebook))
        for cell in nb["cells"]:
            cell["source"] = {**answers, **{k.replace("_", "-"): v for k, v in more.items()}}.get(
                cell["id"], cell["source"]
            )
        return nb

    return build


@pytest.fixture
def work(tmp_path, notebook):
    """Write a student's notebook and return its path."""

    def write(nb=None, name="lab01_pages.ipynb"):
        path = tmp_path / name
        path.write_text(json.dumps(nb or notebook()))
        return path

    return write
