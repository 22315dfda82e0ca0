"""The command `vlib`: bad input ends with one line and exit status 2."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from .files import locked, read_json
from .notebook import LabError, course_labs, find_lab, read_lab
from .sandbox import Limits, require


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except LabError as e:
        print(f"vlib {args.command}: {_printable(str(e))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our lines has gone; what was finished is kept
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"vlib {args.command}: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="vlib", description="Work with the labs of the course.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name, run, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--labs", type=Path, default=course_labs(), help="the folder of the course's labs")
        sub.add_argument("--solutions", type=Path, help="the folder of the solutions (default: LABS/solutions)")
        return sub

    sub = command("check", _check, "Check your copy of a lab: seed 0, targets shown.")
    sub.add_argument("notebook", help="a notebook, or the name of a lab whose copy is here or in work/")
    sub.add_argument("--seed", type=int, default=0, help="other inputs (needs the solution)")
    sub = command("lab", _lab, "Copy the labs to work on, over no file of yours.")
    sub.add_argument("folder", nargs="?", type=Path, default=Path("work"))
    sub = command("refresh", _refresh, "Put the solution's outputs into a lab as its targets.")
    sub.add_argument("lab")
    sub = command("prove", _prove, "Run a lab's proving submissions and compare what they earn, at two seeds.")
    sub.add_argument("lab")
    sub.add_argument("--trials", type=Path, help="their folder (default: tests/submissions/LAB beside LABS)")
    sub = command("grade", _grade, "Mark a class: results, feedback pages and a gradebook in GRADES.")
    sub.add_argument("lab")
    sub.add_argument("submissions", type=Path, help="a folder with STUDENT/LAB.ipynb, or Moodle's or Canvas's zip")
    sub.add_argument("--out", type=Path, required=True, metavar="GRADES", help="the folder for all that is written")
    sub.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, help="submissions marked at once")
    sub.add_argument("--personal", action="store_true", help="other inputs for each student")
    sub.add_argument("--secret-file", type=Path, help="the secret that seeds come from (default: GRADES/secret)")
    sub.add_argument("--only", metavar="STUDENT", help="mark this student only")
    sub.add_argument("--unsafe", action="store_true", help="run students' code without a sandbox, as you")
    sub.add_argument("--dask", metavar="ADDRESS", help="mark on a dask cluster")
    limits = Limits()
    sub.add_argument("--seconds", type=_count, default=limits.seconds, help="for one cell")
    sub.add_argument("--memory", type=_count, default=limits.memory >> 20, help="MiB for one task")
    sub.add_argument("--processes", type=_count, default=limits.processes, help="and threads, for one task")
    sub.add_argument("--disk", type=_count, default=limits.disk >> 20, help="MiB for one task")
    sub.add_argument("--output", type=_count, default=limits.output >> 20, help="MiB of output for one task")
    sub = command("marks", _marks, "Give a person's marks, for essays or over what was computed; list what is open.")
    sub.add_argument("grades", type=Path, help="the folder that `vlib grade` wrote")
    sub.add_argument("--mark", nargs=3, action="append", default=[], metavar=("STUDENT", "TASK", "POINTS"))
    sub.add_argument("--reason", default="", help="which the student reads")
    sub.add_argument("--file", type=Path, help="many marks: a CSV with student, task, points, reason")
    sub = command("release", _release, "Write a lab's student's copy, making sure that it gives nothing away.")
    sub.add_argument("lab")
    sub.add_argument("--out", type=Path, required=True)
    sub = command("doctor", _doctor, "Say whether this machine can mark a class, and what is missing.")
    return parser


def _printable(text):
    """Return text without what would steer a terminal: names of files are the students' choice."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _check(args):
    from .checking import find_copy, report

    for line in report(find_copy(args.notebook), args.seed, args.labs, args.solutions):
        print(line, flush=True)


def _lab(args):
    from .course import copy_labs

    for line in copy_labs(args.folder, args.labs):
        print(line)


def _refresh(args):
    from .course import refresh

    print(refresh(args.lab, args.labs, args.solutions or args.labs / "solutions"))


def _prove(args):
    from .compare import Marker
    from .notebook import read_judges, read_solution
    from .prove import prove, read_trials
    from .reference import checked_references, references
    from .sandbox import own_kernels

    lab = read_lab(find_lab(args.lab, args.labs))
    solution, judges = read_solution(lab, args.solutions or args.labs / "solutions"), read_judges(lab, args.labs)
    trials = read_trials(lab, solution, args.trials or args.labs.parent / "tests" / "submissions" / lab.stem)
    failures = 0
    with own_kernels(lab, judges) as start:
        for seed, make in ((0, checked_references), (20, references)):
            marker = Marker(start, seed, judges)
            for name, wrong in prove(lab, trials, make(lab, solution, marker), marker):
                failures += bool(wrong)
                print(f"seed {seed}  {name}: {wrong or 'as expected'}", flush=True)
    print(f"{len(trials)} submissions at 2 seeds, {failures} not as expected")
    return 1 if failures else 0


def _grade(args):
    from .batch import mark_class, read_secret
    from .mark import Exam
    from .notebook import read_judges, read_solution
    from .report import write_reports
    from .submissions import find

    if not args.unsafe:
        require()
    lab = read_lab(find_lab(args.lab, args.labs))
    entries, problems = find(args.submissions, lab.stem)
    if args.only:
        entries = [e for e in entries if e.student == args.only]
        if not entries:
            raise LabError(f"{args.only!r} has no submission in {args.submissions}")
    limits = Limits(args.seconds, args.memory << 20, args.processes, args.disk << 20, args.output << 20)
    solution = read_solution(lab, args.solutions or args.labs / "solutions")
    judges = read_judges(lab, args.labs)
    exam = Exam(lab.stem, json.dumps(lab.notebook), solution, judges, limits, not args.unsafe)
    with locked(args.out):
        secret = read_secret(args.secret_file or args.out / "secret")
        with _executor(args) as executor:
            problems += mark_class(exam, entries, args.out, secret, args.personal, executor, args.jobs)
        for line in write_reports(args.out, lab):
            print(line)
    if problems:
        raise LabError("; ".join(problems))


def _marks(args):
    from .gradebook import read_marks, read_rows, set_marks
    from .report import write_reports

    stem = read_json(args.grades / "exam.json").get("stem")
    if not stem:
        raise LabError(f"{args.grades} is no folder that `vlib grade` wrote")
    lab = read_lab(find_lab(stem, args.labs))
    marks = read_marks(args.file) if args.file else []
    for student, task, points in args.mark:
        try:
            marks.append((student, task, float(points), args.reason))
        except ValueError:
            raise LabError(f"{points!r} is no number of points") from None
    with locked(args.grades):
        if marks:
            set_marks(args.grades, lab, marks)
            list(write_reports(args.grades, lab))
            print(f"{len(marks)} marks")
    for row in read_rows(args.grades, lab):
        for task in row.unread:
            print(_printable(f"open: {row.student} {task}"))


def _release(args):
    from .course import release

    print(release(args.lab, args.labs, args.solutions or args.labs / "solutions", args.out))


def _doctor(args):
    from .doctor import examine

    found = list(examine([args.labs, args.solutions or args.labs / "solutions", Path.cwd() / "submissions"]))
    for well, line in found:
        print(f"{'ok      ' if well else 'MISSING '} {line}")
    return 0 if all(well for well, _ in found) else 1


def _executor(args):
    if not args.dask:
        return contextlib.nullcontext()
    try:
        from dask.distributed import Client
    except ImportError:
        raise LabError("--dask needs dask: pip install 'vlib[dask]'") from None
    return Client(args.dask).get_executor()


if __name__ == "__main__":
    sys.exit(main())
