"""nbval as the judge: run a lab's cells with a student's definitions and compare, outside the kernel."""

import hashlib
import json
import math
import os
import queue
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

from .extract import Answer, bound_names
from .kernel import Kernel
from .notebook import Lab, LabError

PRINTED = ("stdout", "stderr")  # a print or a warning left in a function costs nothing
# pytest's own plugins that a run of cells has no use for; one of them collects garbage ten times a run.
UNUSED = ["cacheprovider", "terminal", "logging", "warnings", "faulthandler", "junitxml", "doctest", "unittest"]
UNUSED += ["unraisableexception", "threadexception", "pastebin", "setuponly", "setupplan", "stepwise"]
SHORT = 2000  # characters of output kept for the feedback


@dataclass
class Outcome:
    """What one check cell said about an answer."""

    cell: str
    task: str
    points: int
    fraction: float = 0.0
    why: str = ""  # one line for the student; empty when all is right
    shown: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)  # never leaves the marking process, except at seed 0
    printed: str = ""
    error: str = ""

    @property
    def earned(self) -> float:
        """The points that the answer earns."""
        return round(self.points * self.fraction, 4)


@dataclass
class Marker:
    """What marking needs: how to start a kernel, the seed, the judges' source, and the time of one cell in seconds."""

    start: Callable[[], Kernel]
    seed: int = 0
    judges: str = ""
    seconds: float = 20.0


def assemble(lab: Lab, answers: dict[str, Answer], seed: int, expected: dict[str, list] | None) -> dict:
    """Return the notebook that nbval runs: for each task the setup, the student's definitions, and the lab's checks.

    `expected` gives the reference outputs of each check cell; None leaves them out, to make references. What a "given"
    cell binds is made with the seed in the reference run; with `expected` the student's kernel gets these values as
    data, and neither the seed nor what else could be made from it.
    """
    cells = []

    def put(name, source, outputs=None, **meta):
        count = None if outputs is None else 1
        cell = {"id": re.sub(r"[^\w-]", "-", name)[:64], "cell_type": "code", "source": source}
        cells.append({**cell, "metadata": {"vlib": meta}, "execution_count": count, "outputs": outputs or []})

    for number, (task, answer) in enumerate(answers.items()):
        given = lab.of(task, "given")
        made = [expected is not None and cell.id in expected for cell in given]
        for i, cell in enumerate(c for c in lab.cells if c.role == "setup"):
            own = 0 if any(made) else task_seed(seed, task)
            put(f"setup-{number}-{i}", with_seed(cell.source, own), task=task, role="setup")
        # From here on the student's code can make any cell fail, and that is its answer, not an accident of ours.
        put(f"answer-{number}", answer.source, task=task, role="answer")
        for i, cell in enumerate(given):
            meta = {k: v for k, v in asdict(cell).items() if k not in ("source", "outputs")} | {"problem": ""}
            if made[i]:
                put(f"given-{number}-{i}", _as_data(expected[cell.id]), task=task, role="answer")
            elif expected is None:
                put(f"given-{number}-{i}", _published(cell.source), **meta | {"role": "check"})
            else:
                put(f"given-{number}-{i}", cell.source, task=task, role="answer")
        for i, cell in enumerate(lab.of(task, "check")):
            meta = {k: v for k, v in asdict(cell).items() if k not in ("source", "outputs")}
            put(f"check-{number}-{i}", cell.source, expected and expected[cell.id], **meta, problem=answer.problem)
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def _published(source):
    """Let a given cell show what it binds, if that is plain data, which arrives as it is."""
    values = "{" + ", ".join(f"{name!r}: {name}" for name in sorted(bound_names(source))) + "}"
    return (
        f"{source}\nimport json\nassert json.loads(json.dumps({values})) == {values}, 'not plain data'\nshow({values})"
    )


def _as_data(outputs):
    return f"import json\nglobals().update(json.loads({shown(outputs)[0]!r}))"


def task_seed(seed: int, task: str) -> int:
    """Return the seed of one task: a student's code may print what it has, and that must say nothing of the others.

    >>> task_seed(0, "rounds"), task_seed(7, "rounds") == task_seed(7, "stop_rule")
    (0, False)
    """
    return seed and 1 + int(hashlib.sha256(f"{seed} {task}".encode()).hexdigest(), 16) % (2**32 - 1)


def with_seed(source: str, seed: int) -> str:
    """Return the setup cell with SEED set to `seed`."""
    return re.sub(r"^SEED\s*=.*$", f"SEED = {seed}", source, flags=re.M)


def run(notebook: dict, marker: Marker) -> list[Outcome]:
    """Run an assembled notebook under nbval, each task in a kernel of its own, and return what its checks said."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lab.ipynb")
        path.write_text(json.dumps(notebook), encoding="utf-8")
        Path(folder, "pytest.ini").write_text("[pytest]\n")  # no settings of the course's own tests
        args = ["-c", str(Path(folder, "pytest.ini")), "--rootdir", folder, "-p", "nbval.plugin", "--capture=no"]
        args += [arg for name in UNUSED for arg in ("-p", f"no:{name}")]
        args += [f"--nbval-cell-timeout={marker.seconds}", str(path)]
        autoload = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        try:
            plugin = Plugin(marker, outcomes)
            status = pytest.main(args, plugins=[plugin])
        finally:
            if autoload is None:
                del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
            else:
                os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = autoload
    checks = sum(c["metadata"]["vlib"]["role"] == "check" for c in notebook["cells"])
    if plugin.accidents or status not in (0, 1) or len(outcomes) != checks:
        why = "; ".join(dict.fromkeys(plugin.accidents))[:300]
        raise LabError(f"nbval said status {int(status)} and gave {len(outcomes)} of {checks} results: {why}")
    return outcomes


class Plugin:
    """Give nbval our cells, and gather what their reports carry."""

    def __init__(self, marker, outcomes):
        self.marker, self.outcomes = marker, outcomes
        self.accidents = []  # what went wrong around the cells, and is nobody's answer

    def pytest_configure(self, config):
        """Set what pytest's terminal, which is off, would have set."""
        config.option.color = "no"

    def pytest_collect_file(self, file_path, parent):
        """Collect the assembled notebook."""
        file = LabFile.from_parent(parent, path=file_path)
        file.marker = self.marker
        return file

    def pytest_runtest_logreport(self, report):
        """Keep the outcome of a check cell, whether it passed or not."""
        if report.failed and not any(name == "vlib" for name, _ in report.user_properties):
            crash = getattr(report.longrepr, "reprcrash", None)
            self.accidents.append(crash.message if crash else str(report.longrepr))
        if report.when == "call":
            self.outcomes += [value for name, value in report.user_properties if name == "vlib"]


class LabFile(IPyNbFile):
    """An assembled notebook: one kernel for each task, so that what a task breaks is its own."""

    def setup(self):
        """Start the kernel of the first task."""
        self.skip_compare += PRINTED
        self.failed = {}  # task → what its answer cell raised
        self.tasks = list(dict.fromkeys(cell.metadata.vlib.task for cell in self.nb.cells))
        self.task = self.kernel = self.next = None
        self.next = self.marker.start()

    def enter(self, task):
        """End the kernel of the task before, and start that of the next one while this one works."""
        if task == self.task:
            return
        if self.kernel is not None:
            self.kernel.stop()
        self.task, self.kernel, self.next = task, self.next, None
        if task != self.tasks[-1]:
            self.next = self.marker.start()

    def collect(self):
        """Yield the notebook's cells with the options that the lab gives, not those in a student's comments."""
        for item in super().collect():
            meta = item.cell.metadata.vlib
            options = defaultdict(bool, check=meta.role == "check")
            yield LabCell.from_parent(self, name=item.cell.id, cell_num=item.cell_num, cell=item.cell, options=options)

    def teardown(self):
        """End the kernels that are left."""
        for kernel in filter(None, (self.kernel, self.next)):
            kernel.stop()


class LabCell(IPyNbCell):
    """A cell whose outputs are equal exactly, within a tolerance, or in a judge's opinion."""

    def setup(self):
        """Enter the cell's task; nbval's own setup would fail all that follows a time-out."""
        self.meta = self.cell.metadata.vlib
        self.parent.enter(self.meta.task)

    def runtest(self):
        """Run the cell as nbval does, and say what it is worth."""
        if self.meta.role == "setup":
            super().runtest()  # the course's own code in a fresh kernel: a failure is an accident, not an answer
            return
        if self.meta.role == "answer":
            try:
                super().runtest()
            except (NbCellError, RuntimeError):
                self.parent.failed.setdefault(self.meta.task, self._failure())
            return
        self.outcome = Outcome(self.meta.id, self.meta.task, self.meta.points)
        self.user_properties.append(("vlib", self.outcome))
        try:
            super().runtest()
        except (NbCellError, RuntimeError):
            error = self._failure()
            if error:  # else the outputs differ, and the judge may have given a part of the points
                self.outcome.fraction = 0.0
                self.outcome.error = self.parent.failed.get(self.meta.task, error)
            self.outcome.why = self.meta.problem or self.outcome.error or self.outcome.why
            raise
        except Exception:
            self.user_properties.clear()  # no answer's doing: an accident, and no outcome
            raise
        finally:
            outputs = self.test_outputs or []
            self.outcome.printed = "".join(o.text for o in outputs if o.output_type == "stream")[:SHORT]
            self.outcome.shown = shown(outputs)
            self.outcome.expected = shown(self.cell.outputs)

    def _failure(self):
        """Return what went wrong with the run itself: an exception, or the end of the kernel."""
        for output in self.test_outputs or []:
            if output.output_type == "error" and output.ename == "NotImplementedError":
                return "not answered yet"
            if output.output_type == "error":
                where = f" ({output.traceback[-1]})" if output.traceback else ""
                return f"{output.ename}: {output.evalue}"[:SHORT].rstrip(": ") + where
        return self.parent.kernel.ended

    def compare_outputs(self, test, ref, skip_compare=None):
        """Return whether the cell earns all its points; keep the fraction and the reason."""
        self.comparison_traceback = []  # nbval's text; ours is in the outcome
        if self.meta.judge:
            seed = task_seed(self.parent.marker.seed, self.meta.task)
            self.outcome.fraction, self.outcome.why = judge(self.parent.marker, self.meta.judge, shown(test), seed)
        elif super().compare_outputs(test, ref, skip_compare):
            self.outcome.fraction = 1.0
        else:
            tolerance = {"rtol": self.meta.rtol, "atol": self.meta.atol}
            self.outcome.fraction = float(same(shown(ref), shown(test), **tolerance))
            self.outcome.why = "" if self.outcome.fraction else "the result is not the expected one"
        return self.outcome.fraction == 1.0


def shown(outputs) -> list[str]:
    """Return the lines that show() gave, from a cell's outputs."""
    return [o["data"].get("text/plain", "") for o in outputs if o["output_type"] == "display_data"]


def same(expected: list[str], got: list[str], rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Return whether lines of canonical JSON are equal, numbers by value and within a tolerance.

    >>> same(["[1, 2.0]"], ["[1.0, 2.001]"], rtol=0.01)
    True
    """
    try:
        pairs = zip(map(json.loads, expected), map(json.loads, got), strict=True)
        return all(_equal(a, b, rtol, atol) for a, b in pairs)
    except (ValueError, RecursionError):
        return False


def _equal(a, b, rtol, atol):
    number = (int, float)
    if isinstance(a, number) and isinstance(b, number) and not isinstance(a, bool) and not isinstance(b, bool):
        if a == b or (a != a and b != b):
            return True
        try:
            return math.isfinite(b) and abs(a - b) <= atol + rtol * abs(a)
        except OverflowError:
            return False
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(_equal(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k], rtol, atol) for k in a)
    return a == b


def judge(marker: Marker, name: str, lines: list[str], seed: int) -> tuple[float, str]:
    """Return the fraction of the points and the reason that a lab's judge gives for what a check printed.

    The judge runs in a fresh kernel of its own, with the limits of any kernel: it has no student's code in it, and
    data that makes it loop or eat memory costs the answer its points and nothing else.
    """
    try:
        printed = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return 0.0, "the output of the check is not what show() prints"
    call = f"show(list({name}(json.loads({json.dumps(printed)!r}), {seed})))"
    kernel = marker.start()
    try:
        source = f"{marker.judges}\n\nimport json\nfrom vlib.grading.show import show\n"
        if _run(kernel, source, marker.seconds) != []:
            raise OSError(f"the judges of the lab fail: {kernel.ended or name}")  # before they see any answer
        messages = _run(kernel, call, marker.seconds)
        if messages is None:
            return 0.0, f"the judge could not replay this answer: {kernel.ended}"
        last = messages[-1]
        if last["msg_type"] == "error":
            return 0.0, f"the judge cannot read this answer ({last['content']['ename']})"
        fraction, why = json.loads(last["content"]["data"]["text/plain"])
        if isinstance(fraction, (int, float)) and 0 <= fraction <= 1 and isinstance(why, str):
            return float(fraction), why[:SHORT]
        return 0.0, "the judge gave no mark; tell your instructor"
    except (ValueError, KeyError, TypeError, IndexError):
        return 0.0, "the judge gave no mark; tell your instructor"
    finally:
        kernel.stop()


def _run(kernel, source, seconds):
    """Run a piece of the course's code; return its outputs but for prints, or None if the kernel did not survive."""
    try:
        kernel.await_reply(kernel.execute_cell_input(source), timeout=seconds)
        messages = []
        while (message := kernel.get_message("iopub"))["msg_type"] != "status":
            messages += [message] if message["msg_type"] != "stream" else []
        return messages
    except queue.Empty:
        return None
