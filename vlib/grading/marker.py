"""Mark submissions in a process that nothing trusts much: nobody's, in the outer sandbox, a fork for each job.

Jobs come as JSON lines on standard input, results go as JSON lines to standard output.
"""

import base64
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, replace

from .compare import Marker, assemble, run
from .extract import essays, extract
from .forkserver import drop_root
from .kernel import start_process, starter
from .notebook import LabError, parse_lab, read_notebook
from .reference import checked_references, references

MEMORY = 4 << 30  # bytes of address space: a damaged notebook may be large
READING = 20  # seconds of processor time to find the answers in a notebook; usual is a hundredth
ESSAY = 100_000  # characters


def grade(job: dict, marker: Marker) -> dict:
    """Return the marks of one submission, without any expected value."""
    lab = parse_lab(job["lab"], job["stem"])
    try:
        with _at_most(READING):
            notebook = read_notebook(base64.b64decode(job["data"]))
            answers, texts = extract(lab, notebook), essays(lab, notebook)
    except LabError as e:
        return {"problem": str(e)}
    outcomes = run(assemble(lab, answers, marker.seed, job["expected"]), marker)
    kept = [asdict(replace(o, expected=[], shown=_short(o.shown))) | {"earned": o.earned} for o in outcomes]
    return {
        "outcomes": kept,
        "essays": {cell: text[:ESSAY] for cell, text in texts.items()},
        "sources": {task: answer.source[:100_000] for task, answer in answers.items()},
    }


@contextlib.contextmanager
def _at_most(seconds):
    """Raise LabError in a block of Python that takes too much processor time."""

    def stop(signum, frame):
        raise LabError(f"not marked: {seconds} s were not enough to find the answers in it")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def make_references(job: dict, marker: Marker) -> dict:
    """Return the reference outputs for the job's seed; with `careful`, refuse those that could be guessed."""
    lab = parse_lab(job["lab"], job["stem"])
    make = checked_references if job["careful"] else references
    return {"expected": make(lab, job["solution"], marker)}


def _short(lines, longest=2000):
    return [line[:longest] + ("…" if len(line) > longest else "") for line in lines[:20]]


def _work(line, start):
    job = json.loads(line)
    marker = Marker(start, job["seed"], job["judges"], job["seconds"])
    try:
        return {"grade": grade, "references": make_references}[job["do"]](job, marker)
    except LabError as e:
        return {"problem": str(e), "defect": True}
    except Exception as e:  # a defect of ours must cost one submission its mark for now, and be seen
        return {"problem": f"marking failed: {type(e).__name__}: {str(e)[:200]}", "defect": True}


def _fork(line, start, seconds):
    """Run a job in a fork and return its result as JSON text."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            with os.fdopen(write, "wb") as out:
                out.write(json.dumps(_work(line, start)).encode())
        finally:
            os._exit(0)
    os.close(write)
    deadline, parts = time.monotonic() + seconds, []
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            parts.append(part)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    result = b"".join(parts)
    if not result.endswith(b"}"):
        return json.dumps({"problem": "marking took too long or too much memory", "defect": True}).encode()
    return result


def main():
    """Answer jobs until standard input ends."""
    options = json.loads(sys.argv[1])
    start = start_process  # without a sandbox: in the name of who runs this
    if options["control"] is not None:
        drop_root()
        start = starter(socket.socket(fileno=options["control"]), options["output"])
    with contextlib.suppress(LabError):  # an empty notebook, so that pytest and nbval load what they load late
        run({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}, Marker(start))
    gc.freeze()  # what is loaded now is shared by all forks
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        out.write(_fork(line, start, options["deadline"]) + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
