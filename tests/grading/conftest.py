import json
import os

import pytest
from small_lab import ANSWERS, LABS, student_notebook

from vlib.grading import sandbox
from vlib.grading.notebook import read_lab

collect_ignore_glob = ["labs/*"]


@pytest.fixture(scope="session")
def lab():
    return read_lab(LABS / "lab01_pages.ipynb")


@pytest.fixture(scope="session")
def sandbox_works():
    why = sandbox.trouble()
    if why and os.environ.get("CI"):
        pytest.fail(f"no sandbox: {why}")
    if why:
        pytest.skip(f"no sandbox: {why}")


@pytest.fixture
def notebook():
    """Build a student's notebook: all right answers, but for the cells that are named."""

    def build(**other):
        return student_notebook({**ANSWERS, **{k.replace("_", "-"): v for k, v in other.items()}})

    return build


@pytest.fixture
def work(tmp_path, notebook):
    """Write a student's notebook and return its path."""

    def write(nb=None, name="lab01_pages.ipynb"):
        path = tmp_path / name
        path.write_text(json.dumps(nb or notebook()))
        return path

    return write
