"""The command `vlib`: bad input ends with one line and exit status 2."""

import argparse
import sys
from pathlib import Path

from .notebook import LabError, course_labs


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


if __name__ == "__main__":
    sys.exit(main())
