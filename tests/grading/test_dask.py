import json
import os

import pytest
from small_lab import ANSWERS, JUDGES, LABS, SOLUTION, student_notebook

from vlib.grading.batch import mark_class
from vlib.grading.gradebook import gradebook, read_rows
from vlib.grading.mark import Exam
from vlib.grading.submissions import find

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.sandbox


def test_dask_gives_the_same_gradebook_though_a_worker_is_killed(tmp_path, lab, sandbox_works):
    answers = [{}, {"mean-answer": "def mean_gap(times):\n    return 1"}, {"predict-answer": "pages_needed = 2"}]
    for i in range(9):
        path = tmp_path / "in" / f"s{i}" / "lab01.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(student_notebook({**ANSWERS, **answers[i % 3]})))
    exam = Exam(lab.stem, (LABS / "lab01_pages.ipynb").read_text(), SOLUTION, JUDGES)
    entries = find(tmp_path / "in", lab.stem)[0]
    secret = b"0123456789abcdef"
    books = {}
    mark_class(exam, entries, tmp_path / "local", secret, say=lambda line: None)
    books["local"] = gradebook(read_rows(tmp_path / "local", lab), lab)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(host="127.0.0.1", **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        said, before = [], set(client.run(os.getpid).values())

        def say(line):
            said.append(line)
            if len(said) == 3:  # by its own process object: the nanny starts another
                next(iter(cluster.workers.values())).process.process.kill()

        problems = mark_class(exam, entries, tmp_path / "dask", secret, executor=client.get_executor(), say=say)
        client.wait_for_workers(2)
        assert set(client.run(os.getpid).values()) != before
    books["dask"] = gradebook(read_rows(tmp_path / "dask", lab), lab)
    assert problems == [] and len(said) == 9
    assert books["dask"] == books["local"]
