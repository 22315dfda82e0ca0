"""The command `vlib`: bad input ends with one line and exit status 2."""

import argparse
import sys
from pathlib import Path

from .notebook import LabError, course_labs, find_lab, read_lab


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except LabError as e:
        print(f"vlib {args.command}: {e}", file=sys.stderr)
        return 2
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
    return parser


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
    from .course import checked_references
    from .kernel import start_process
    from .prove import prove, read_trials
    from .reference import read_judges, read_solution

    lab = read_lab(find_lab(args.lab, args.labs))
    solution, judges = read_solution(lab, args.solutions or args.labs / "solutions"), read_judges(lab, args.labs)
    trials = read_trials(lab, solution, args.trials or args.labs.parent / "tests" / "submissions" / lab.stem)
    failures = 0
    for seed in (0, 20):
        expected = checked_references(lab, solution, judges, seed=seed)
        for name, wrong in prove(lab, trials, expected, Marker(start_process, seed, judges)):
            failures += bool(wrong)
            print(f"seed {seed}  {name}: {wrong or 'as expected'}", flush=True)
    print(f"{len(trials)} submissions at 2 seeds, {failures} not as expected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
