"""Keep the labs of the course: the students' copies, and the targets that stand in the labs themselves."""

import hashlib
import os
from pathlib import Path

from .compare import Marker, assemble, run, same, shown
from .extract import answer_names, definitions, extract, from_python
from .files import write
from .notebook import LabError, dump, find_lab, read_judges, read_lab, read_notebook, read_solution, student_copy, text
from .reference import checked_references, own_outputs
from .sandbox import own_kernels


def copy_labs(folder: Path, labs: Path):
    """Copy every lab's student's copy into `folder`, over no file; yield a line about each."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(Path(labs).glob("lab*.ipynb"))
    if not found:
        raise LabError(f"there is no lab in {labs}")
    for path in found:
        target = folder / path.name
        nb = student_copy(read_lab(path).notebook)
        version = hashlib.sha256(dump(nb).encode()).hexdigest()[:12]
        nb["metadata"]["vlib"] = {"lab": version}
        try:
            write_new(target, dump(nb))
            yield f"{target}: copied"
        except FileExistsError:
            yield f"{target}: {_state(target, version)}"


def _state(target, version):
    try:
        theirs = read_notebook(target.read_bytes()).get("metadata", {}).get("vlib", {}).get("lab")
    except (LabError, OSError, AttributeError):
        return "kept, though it is no notebook any more; rename it and run this again for a fresh copy"
    if theirs == version:
        return "kept, it is yours"
    return "kept, it is yours; the course has a newer version of this lab: rename yours to get a copy of the new one"


def write_new(path: Path, text: str):
    """Write a file whole, and only if there is none of that name: raises FileExistsError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    try:
        os.link(part, path)
    except OSError as e:
        if isinstance(e, FileExistsError) or path.exists():
            raise FileExistsError(path) from None
        os.rename(part, path)  # a file system without links
    finally:
        part.unlink(missing_ok=True)


def refresh(name: str, labs: Path, solutions: Path) -> str:
    """Put the solution's outputs with seed 0 into the check cells of a lab; refuse targets that can be guessed."""
    path = find_lab(name, labs)
    lab = read_lab(path)
    judges = read_judges(lab, labs)
    with own_kernels(lab, judges) as start:
        expected = checked_references(lab, read_solution(lab, solutions), Marker(start, 0, judges))
    count = 0
    for raw in lab.notebook["cells"]:
        if raw["cell_type"] != "code":
            continue
        target = expected.get(raw.get("id")) if raw["metadata"].get("vlib", {}).get("role") == "check" else None
        count += target is not None
        raw["outputs"], raw["execution_count"] = target or [], count if target else None
    write(path, dump(lab.notebook))
    return f"{path}: {count} targets"


def release(name: str, labs: Path, solutions: Path, out: Path) -> str:
    """Write the student's distribution of a lab into `out`, after making sure that it gives no answer away.

    Refused is a lab whose targets are not its solution's, whose checks the unsolved lab passes, or that has a
    statement of its solution in it.
    """
    path = find_lab(name, labs)
    lab = read_lab(path)
    solution, judges = read_solution(lab, solutions), read_judges(lab, labs)
    with own_kernels(lab, judges) as start:
        expected = checked_references(lab, solution, Marker(start, 0, judges))
        unsolved = run(assemble(lab, extract(lab, lab.notebook), 0, expected), Marker(start, 0, judges))
    passed = [o.cell for o in unsolved if o.earned]
    if passed:
        raise LabError(f"{lab.stem} is solved already: {', '.join(passed)} earns points")
    stale = [i for i, outputs in own_outputs(lab).items() if not same(shown(outputs), shown(expected[i]))]
    if stale:
        raise LabError(f"{lab.stem} has targets that its solution does not give: {', '.join(stale)}; run vlib refresh")
    copy = student_copy(lab.notebook)
    given = " ".join(" ".join(text(cell).split()) for cell in copy["cells"])
    for statement in definitions(from_python(solution)).statements:
        names = {n for t in lab.tasks for n in answer_names(lab, t)}
        source = " ".join(statement.source.split())
        if statement.binds & names and source in given:
            raise LabError(f"{lab.stem} has its solution in it: {source[:60]!r}")
    target = Path(out) / path.name
    write(target, dump(copy))
    return f"{target}: unsolved, {sum(map(lab.points, lab.tasks))} points, no target of a prediction in it"
