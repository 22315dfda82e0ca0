"""How fast a class is marked: this course's grader beside plain nbval and nbgrader, on one 20-cell lab.

Rates are submissions a minute, from interleaved rounds, so that what else the machine does hurts all alike. nbgrader
lives in an environment of its own (`--peers DIR`, made when missing). `--many N` also marks N submissions in one run
and looks at memory, processes, sockets and files.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = 6
PEERS = ["nbgrader==0.9.6", "numpy", "ipykernel"]


def cell(name, source, outputs=(), nbgrader=None, **vlib):
    meta = {"vlib": vlib} if vlib else {}
    if nbgrader is not None:
        base = {"schema_version": 3, "grade": False, "locked": False, "solution": False, "task": False}
        meta["nbgrader"] = {**base, "grade_id": name, **nbgrader}
    shape = {"cell_type": "code", "id": name, "metadata": meta, "source": source}
    return {**shape, "execution_count": 1 if outputs else None, "outputs": list(outputs)}


def answer(task):
    return f"def total_{task}(values):\n    return sum(v * {task + 2} for v in values)"


def lab(solved=False, for_nbgrader=False):
    """Return the lab: 20 code cells, one setup, six tasks with an answer and two checks, one to try things in."""
    setup = "import numpy as np\n\n" + ("" if for_nbgrader else "from vlib.grading.show import show\n\n") + "SEED = 0"
    cells = [cell("setup", setup, role="setup")]
    for t in range(TASKS):
        stub = f"def total_{t}(values):\n    raise NotImplementedError"
        source = answer(t) if solved or for_nbgrader else stub
        cells.append(
            cell(f"t{t}-answer", source, (), {"solution": True} if for_nbgrader else None, task=f"t{t}", role="answer")
        )
        for c in range(2):
            draw = f"values = np.random.default_rng(SEED + {c}).integers(0, 99, 50).tolist()\n"
            if for_nbgrader:
                source = draw + f"assert total_{t}(values) == sum(values) * {t + 2}"
                options = {"grade": True, "locked": True, "points": 1}
                cells.append(cell(f"t{t}-check{c}", source, (), options))
            else:
                cells.append(
                    cell(
                        f"t{t}-check{c}",
                        draw + f"show(total_{t}(values))",
                        (),
                        None,
                        task=f"t{t}",
                        role="check",
                        points=1,
                    )
                )
    cells.append(cell("try", "total_0([1, 2])"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def prepare(root, count):
    """Write the labs, the solution, and `count` right submissions for each grader."""
    labs = root / "labs"
    (labs / "solutions").mkdir(parents=True)
    (labs / "lab20_bench.ipynb").write_text(json.dumps(lab()))
    (labs / "solutions" / "lab20_bench.py").write_text("\n\n\n".join(answer(t) for t in range(TASKS)))
    vlib("refresh", "lab20", "--labs", labs)
    reference = json.loads((labs / "lab20_bench.ipynb").read_text())
    solved = lab(solved=True)
    for ours, theirs in zip(solved["cells"], reference["cells"], strict=True):
        ours["outputs"], ours["execution_count"] = theirs["outputs"], theirs["execution_count"]
    (root / "plain").mkdir()
    for i in range(count):
        folder = root / "class" / f"s{i:04}"
        folder.mkdir(parents=True)
        (folder / "lab20_bench.ipynb").write_text(json.dumps(solved))
        if i < 40:
            (root / "plain" / f"s{i:04}.ipynb").write_text(json.dumps(solved))
    return labs


def vlib(*args, **options):
    command = [sys.executable, "-m", "vlib.grading.cli", *map(str, args)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def ours(root, labs, count):
    """Mark a class with all safety on and return the seconds."""
    out = root / "grades"
    shutil.rmtree(out, ignore_errors=True)
    some = root / "some"
    shutil.rmtree(some, ignore_errors=True)
    some.mkdir()
    for folder in sorted((root / "class").iterdir())[:count]:
        shutil.copytree(folder, some / folder.name)
    began = time.monotonic()
    said = vlib("grade", "lab20", some, "--out", out, "--labs", labs, "--jobs", "2")
    seconds = time.monotonic() - began
    assert said.count(f"{2 * TASKS} of {2 * TASKS}") == count, said
    return seconds


def nbval(root, count):
    """Run plain nbval on the same notebooks with two workers and return the seconds."""
    paths = sorted((root / "plain").glob("*.ipynb"))[:count]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval",
        "--nbval-current-env",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "--dist",
        "loadfile",
    ]
    began = time.monotonic()
    subprocess.run([*command, *paths], check=True, stdout=subprocess.DEVNULL, cwd=root / "plain")
    return time.monotonic() - began


def nbgrader(root, peers, count):
    """Autograde the same lab, with asserts as nbgrader has it, and return the seconds."""
    course = root / "course"
    shutil.rmtree(course, ignore_errors=True)
    (course / "source" / "bench").mkdir(parents=True)
    (course / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'bench'\n")
    text = json.dumps(lab(for_nbgrader=True))
    (course / "source" / "bench" / "lab.ipynb").write_text(text)
    program = Path(peers, "bin", "nbgrader")
    env = {**os.environ, "PATH": f"{Path(peers, 'bin')}:{os.environ['PATH']}"}
    quiet = {"cwd": course, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    subprocess.run([program, "generate_assignment", "bench"], **quiet)
    for i in range(count):
        folder = course / "submitted" / f"s{i}" / "bench"
        folder.mkdir(parents=True)
        (folder / "lab.ipynb").write_text(text)
    began = time.monotonic()
    subprocess.run([program, "autograde", "bench"], **quiet)
    seconds = time.monotonic() - began
    assert len(list((course / "autograded").glob("*/bench/lab.ipynb"))) == count
    return seconds


def first_mark(root, labs):
    """Return the seconds from a cold start to the first mark on the screen."""
    shutil.rmtree(root / "grades", ignore_errors=True)
    command = [sys.executable, "-m", "vlib.grading.cli", "grade", "lab20", root / "class", "--out", root / "grades"]
    began = time.monotonic()
    child = subprocess.Popen([*map(str, command), "--labs", str(labs)], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    seconds = time.monotonic() - began
    child.kill()
    child.communicate()
    return seconds


def resources():
    """Return the memory of this process and its children in MiB, and the counts of processes and temporary files."""
    memory, processes = 0, 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"vlib.grading" in (entry / "cmdline").read_bytes():
                processes += 1
                fields = (entry / "status").read_text().split()
                memory += int(fields[fields.index("RssAnon:") + 1]) / 1024
        except (OSError, ValueError):
            continue
    return memory, processes, len(os.listdir(tempfile.gettempdir()))


def many(root, labs, count):
    """Mark `count` submissions in one run; print the rate, the slope of memory, and what is left behind."""
    shutil.rmtree(root / "grades", ignore_errors=True)
    before = resources()
    command = [sys.executable, "-m", "vlib.grading.cli", "grade", "lab20", root / "class", "--out", root / "grades"]
    began = time.monotonic()
    child = subprocess.Popen(
        [*map(str, command), "--labs", str(labs), "--jobs", "2"], stdout=subprocess.PIPE, text=True
    )
    points = []
    for number, line in enumerate(child.stdout, 1):
        if number % 25 == 0 and "/s" in line:
            points.append((number, resources()[0]))
    assert child.wait() == 0
    seconds = time.monotonic() - began
    points = points[2:]
    slope = statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 2 else float("nan")
    after = resources()
    print(f"{count} submissions in one run: {seconds:.0f} s, {60 * count / seconds:.0f} a minute")
    print(
        f"memory: {points[0][1]:.0f} MiB at first, {points[-1][1]:.0f} at last, slope {1024 * slope:+.1f} KiB a submission"
    )
    print(f"left behind: {after[1] - before[1]} processes, {after[2] - before[2]} temporary files")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=40, help="submissions in a round")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir(), "vlib-bench-peers"))
    parser.add_argument("--many", type=int, default=0, metavar="N")
    args = parser.parse_args()
    if not Path(args.peers, "bin", "nbgrader").exists():
        subprocess.run([sys.executable, "-m", "venv", args.peers], check=True)
        subprocess.run([args.peers / "bin" / "pip", "install", "-q", *PEERS], check=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        labs = prepare(root, max(args.count, args.many))
        few = max(4, args.count // 4)  # the slow ones
        rates = {"vlib grade, sandboxed": [], "pytest --nbval -n 2": [], "nbgrader autograde": []}
        for _ in range(args.rounds):
            rates["vlib grade, sandboxed"].append(60 * args.count / ours(root, labs, args.count))
            rates["pytest --nbval -n 2"].append(60 * few / nbval(root, few))
            rates["nbgrader autograde"].append(60 * few / nbgrader(root, args.peers, few))
            print("round:", {name: round(found[-1]) for name, found in rates.items()}, flush=True)
        own = statistics.median(rates["vlib grade, sandboxed"])
        print(f"{'submissions a minute':24} median   best   vlib is")
        for name, found in rates.items():
            middle = statistics.median(found)
            print(f"{name:24} {middle:6.0f} {max(found):6.0f}   {own / middle:.1f} times")
        print(f"first mark on the screen after {first_mark(root, labs):.1f} s")
        if args.many:
            many(root, labs, args.many)


if __name__ == "__main__":
    main()
