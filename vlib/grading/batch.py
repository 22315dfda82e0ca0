"""Mark a class: what is unchanged is kept, what is finished is on disk, and the rest is marked, by any executor."""

import contextlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

from .files import course_version, digest, read_json, write
from .mark import Exam, Result, Submission, grade, reference_outputs
from .notebook import LabError
from .submissions import Entry


def read_secret(path: Path) -> bytes:
    """Return the class's secret, made at the first use; whoever has it can know every seed."""
    if not path.exists():
        write(path, secrets.token_hex(32) + "\n")
        path.chmod(0o600)
    try:
        secret = path.read_bytes().strip()
    except OSError as e:
        raise LabError(f"cannot read the secret {path}: {e.strerror}") from None
    if len(secret) < 16:
        raise LabError(f"the secret in {path} has {len(secret)} bytes; at least 16 are needed")
    return secret


def seed_for(secret: bytes, stem: str, student: str = "") -> int:
    """Return the seed of a class, or with `student` a personal one; never 0, which is the students' own.

    >>> seed_for(b"x" * 16, "lab01") != seed_for(b"x" * 16, "lab01", "ada")
    True
    """
    return 1 + int(_keyed(secret, "seed", stem, student), 16)  # too long to be found from a task's own seed


def seed_id(secret: bytes, stem: str, student: str = "") -> str:
    """Return what a gradebook says of a seed: enough to recognise it, useless to guess it."""
    return _keyed(secret, "id", stem, student)[:8]


def _keyed(secret, *parts):
    return hmac.new(secret, json.dumps(parts).encode(), "sha256").hexdigest()


def mark_class(
    exam: Exam,
    entries: list[Entry],
    out: Path,
    secret: bytes,
    personal: bool = False,
    executor: Executor | None = None,
    jobs: int = 2,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Mark `entries` into `out`/results, one file each, and return a line for each that could not be marked.

    A result whose submission, lab, solution, seed and course are as before is kept. `executor` is a local pool of
    `jobs` threads by default (each drives processes of its own); dask's serves as well.
    """
    exam_key = digest(course_version(), asdict(exam))
    proved = read_json(out / "exam.json").get("key") == exam_key
    problems = []
    began, done, kept = time.monotonic(), 0, 0

    def waiting() -> Iterator[tuple[Entry, Submission | None, dict]]:
        nonlocal kept, proved
        for entry in entries:
            who = entry.student if personal else ""
            record = {"student": entry.student, "name": entry.name, "path": entry.path}
            record |= {"seed": seed_id(secret, exam.stem, who), "lab": digest(exam.lab.encode())[:12]}
            record |= {"course": course_version(), "file": entry.file_name}
            try:
                data = entry.read()
            except LabError as e:
                problems.append(str(e))
                continue
            seed = seed_for(secret, exam.stem, who)
            record["key"] = digest(exam_key, data, seed, entry.student)
            old = read_json(out / "results" / f"{entry.file_name}.json")
            if old.get("key") == record["key"] and not old.get("defect", True):
                kept += 1
                continue
            if not proved:  # a reference that can be guessed is found before the first submission is marked
                reference_outputs(exam, seed_for(secret, exam.stem), careful=True)
                write(out / "exam.json", json.dumps({"key": exam_key, "stem": exam.stem}))
                proved = True
            yield entry, Submission(entry.student, data, seed), record

    with contextlib.ExitStack() as stack:
        pool = executor or stack.enter_context(ThreadPoolExecutor(jobs, thread_name_prefix="desk"))
        running, source, more = {}, waiting(), True
        while more or running:
            while more and len(running) < 4 * jobs:  # read only a few submissions ahead
                entry, submission, record = next(source, (None, None, None))
                more = entry is not None
                if more:
                    running[pool.submit(grade, exam, submission)] = record
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                record = running.pop(future)
                result = _result(future, record["student"])
                write(out / "results" / f"{record['file']}.json", json.dumps(record | asdict(result), indent=1))
                if result.defect:
                    problems.append(f"{record['student']}: {result.problem}")
                done += 1
                say(_progress(done, kept, len(entries), time.monotonic() - began, record, result))
    return problems


def _result(future, student):
    try:
        return future.result()
    except LabError:
        raise
    except Exception as e:  # a worker that died: the others' marks must not die with it
        return Result(student, problem=f"marking failed: {type(e).__name__}: {str(e)[:200]}", defect=True)


def _progress(done, kept, all_, seconds, record, result):
    rate = done / seconds
    left = (all_ - kept - done) / rate
    earned = sum(o["earned"] for o in result.outcomes)
    points = sum(o["points"] for o in result.outcomes)
    mark = result.problem or f"{earned:g} of {points}"
    return f"{done + kept}/{all_}  {rate:.1f}/s  {left:.0f} s left  {record['student'][:40]!r}: {mark}"
