"""grade(submission) -> result: a function of plain data, so that any executor can run it."""

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field

from . import sandbox
from .notebook import LabError, parse_lab
from .sandbox import Limits


@dataclass(frozen=True)
class Exam:
    """What all submissions of a class have in common."""

    stem: str
    lab: str = field(repr=False)  # the course's notebook, as JSON
    solution: str = field(repr=False)
    judges: str = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    safe: bool = True


@dataclass(frozen=True)
class Submission:
    """One student's file."""

    student: str
    data: bytes = field(repr=False)
    seed: int = 0


@dataclass
class Result:
    """What a submission earned: an outcome for each check cell, and what a person has yet to read."""

    student: str
    problem: str = ""  # why there are no outcomes; one line
    defect: bool = False  # the problem is not the student's: the submission must be marked again
    outcomes: list[dict] = field(default_factory=list)
    essays: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def grade(exam: Exam, submission: Submission) -> Result:
    """Mark one submission in the sandbox; depends on nothing but its arguments.

    The reference outputs for the submission's seed are made from the exam's lab and solution, once in each process.
    """
    desk = _desk(exam)
    expected = reference_outputs(exam, submission.seed)
    data = base64.b64encode(submission.data).decode()
    job = {"do": "grade", "data": data, "expected": expected, "seed": submission.seed}
    answer = desk.ask(job)
    if answer.get("defect"):  # whatever happened, it may not be this student's doing: once more, with new processes
        desk.close()
        answer = desk.ask(job)
    return Result(submission.student, **answer)


def reference_outputs(exam: Exam, seed: int, careful: bool = False) -> dict[str, list]:
    """Return the outputs that the exam's solution gives with `seed`; raise LabError if it gives none.

    `careful` also refuses references that an answer could guess: once for an exam, not for each seed.
    """
    key = hashlib.sha256(repr((exam.stem, exam.lab, exam.solution, exam.judges, seed)).encode()).digest()
    if key not in _references or careful:
        answer = _desk(exam).ask({"do": "references", "solution": exam.solution, "seed": seed, "careful": careful})
        if "problem" in answer:
            raise LabError(answer["problem"])
        if len(_references) > 1000:
            _references.clear()  # with a seed for each student none is used twice
        _references[key] = answer["expected"]
    return _references[key]


_references: dict[bytes, dict] = {}
_local = threading.local()


def _desk(exam):
    """Return this thread's marking process for the exam."""
    desk = getattr(_local, "desk", None)
    if desk is None or desk.exam != exam:
        if desk is not None:
            desk.close()
        desk = _local.desk = Desk(exam)
    return desk


class Desk:
    """A marking process and its fork server, started when needed and again after an accident."""

    def __init__(self, exam: Exam):
        self.exam = exam
        self.processes = []

    def _open(self):
        limits = self.exam.limits
        cells = sum(c["cell_type"] == "code" for c in json.loads(self.exam.lab)["cells"])
        self.deadline = 60 + 10 * 2 * cells * limits.seconds  # ten runs of the lab, each with its judges
        options = {"control": None, "deadline": self.deadline, "output": limits.output}
        program = [sys.executable, "-m", "vlib.grading.marker"]
        if not self.exam.safe:
            environment = (
                os.environ | sandbox.environment() | {"HOME": tempfile.gettempdir(), "TMPDIR": tempfile.gettempdir()}
            )
            self._start([*program, json.dumps(options)], env=environment)
            return
        lab = parse_lab(json.loads(self.exam.lab), self.exam.stem)
        server, control = sandbox.fork_server(sandbox.imports(lab, self.exam.judges), limits)
        self.processes.append(server)
        with control:
            options["control"] = control.fileno()
            self._start(sandbox.command([*program, json.dumps(options)]), pass_fds=[control.fileno()])

    def _start(self, program, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": None}
        self.processes.append(subprocess.Popen(program, **pipes, **options))

    def ask(self, job: dict) -> dict:
        """Return the answer to a job; an accident of the marking process is an answer too."""
        exam = self.exam
        common = {"stem": exam.stem, "lab": json.loads(exam.lab), "judges": exam.judges, "seconds": exam.limits.seconds}
        line = json.dumps({**common, **job}).encode() + b"\n"
        if not self.processes:
            self._open()
        marker = self.processes[-1]
        guard = threading.Timer(self.deadline + 30, marker.kill)
        guard.start()
        try:
            marker.stdin.write(line)
            marker.stdin.flush()
            return json.loads(marker.stdout.readline())
        except (OSError, ValueError):
            self.close()
            return {"problem": "the marking process ended; see `vlib doctor`", "defect": True}
        finally:
            guard.cancel()

    def close(self):
        """End the processes; the next job starts new ones."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            for stream in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(OSError):
                    stream.close()
        self.processes = []

    def __del__(self):
        self.close()
