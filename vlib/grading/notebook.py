"""Read a lab, and make the student's copy of it."""

import ast
import copy
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ROLES = ("setup", "given", "answer", "predict", "check", "essay")
LARGEST = 20_000_000  # bytes of a notebook; what is larger is no answer to a lab


class LabError(ValueError):
    """A lab, a submission or an option that cannot be used; its text is one clear line."""


@dataclass
class Cell:
    """One cell of a lab that has a role."""

    id: str
    role: str
    task: str
    source: str
    points: int = 0
    rtol: float = 0.0
    atol: float = 0.0
    judge: str = ""
    hint: str = ""
    outputs: list | None = None  # None: the cell was never run, so it is no reference


@dataclass
class Lab:
    """A lab as the grader sees it: its cells with a role, in order."""

    stem: str
    cells: list[Cell]
    notebook: dict = field(repr=False)

    @property
    def tasks(self) -> list[str]:
        """The tasks that earn points, in order."""
        return list(dict.fromkeys(c.task for c in self.cells if c.points))

    def of(self, task: str, *roles: str) -> list[Cell]:
        """The cells of `task` with one of these roles."""
        return [c for c in self.cells if c.task == task and c.role in roles]

    def points(self, task: str) -> int:
        """The points that `task` can earn."""
        return sum(c.points for c in self.of(task, "check", "essay"))

    def predicts(self, task: str) -> bool:
        """Whether `task` asks for a prediction, whose target stays hidden."""
        return bool(self.of(task, "predict"))


def course_labs() -> Path:
    """Return the folder `labs/` of the checkout that this package is in."""
    return Path(__file__).resolve().parents[2] / "labs"


def find_lab(name: str, labs: Path | None = None) -> Path:
    """Return the path of the course's lab called `name`: `lab08`, `lab08_migration`, or a path to any copy of it."""
    labs = Path(labs) if labs else course_labs()
    stem = Path(name).name.removesuffix(".ipynb")
    known = sorted(p for p in labs.glob("lab*.ipynb"))
    # A browser's download adds " (1)" and JupyterLab "-Copy1": still that lab.
    found = [p for p in known if p.stem == stem] or [p for p in known if re.split(r"[-_ (]", stem)[0] == _number(p)]
    if len(found) != 1:
        names = ", ".join(p.stem for p in known) or f"none in {labs}"
        raise LabError(f"no lab is called {stem!r}; there is: {names}")
    return found[0]


def _number(path: Path) -> str:
    return path.stem.split("_")[0]


def read_notebook(data: bytes) -> dict:
    """Return a notebook as nbformat 4 JSON, or raise LabError; takes what editors, mail and LMSs do to a file.

    >>> read_notebook(b"{}")
    Traceback (most recent call last):
    vlib.grading.notebook.LabError: not a notebook: it has no list of cells
    """
    if len(data) > LARGEST:
        raise LabError(f"not a notebook: {len(data):,} bytes, at most {LARGEST:,} are read")
    if not data.strip():
        raise LabError("not a notebook: the file is empty")
    try:
        nb = json.loads(data.decode(json.detect_encoding(data), errors="replace"))  # some editors save UTF-16
    except (ValueError, RecursionError) as e:
        raise LabError(f"not a notebook: {str(e)[:80]}") from None
    if isinstance(nb, dict) and isinstance(nb.get("worksheets"), list):  # nbformat 3
        sheets = [s.get("cells") for s in nb["worksheets"] if isinstance(s, dict)]
        nb["cells"] = [c for cells in sheets if isinstance(cells, list) for c in cells]
    if not isinstance(nb, dict) or not isinstance(nb.get("cells"), list):
        raise LabError("not a notebook: it has no list of cells")
    return nb


def text(cell: dict) -> str:
    """Return the source of a raw cell, whatever form it has."""
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(s for s in source if isinstance(s, str))
    if not isinstance(source, str):
        return ""
    return source.encode("utf-8", "replace").decode()  # half a surrogate pair is no text, and no file could hold it


def read_lab(path: Path) -> Lab:
    """Return the lab at `path`; raise LabError where its metadata makes no sense."""
    path = Path(path)
    try:
        nb = read_notebook(path.read_bytes())
    except OSError as e:
        raise LabError(f"cannot read {path}: {e.strerror}") from None
    return parse_lab(nb, path.stem)


def parse_lab(nb: dict, stem: str) -> Lab:
    """Return the lab in the notebook `nb`; raise LabError where its metadata makes no sense."""
    cells, ids = [], set()
    for i, raw in enumerate(nb["cells"]):
        meta = raw.get("metadata", {}).get("vlib")
        if meta is None:
            continue
        name = raw.get("id") or f"cell {i + 1}"
        where = f"{stem}, cell {name!r}"
        unknown = set(meta) - {"task", "role", "points", "rtol", "atol", "judge", "hint"}
        if unknown or meta.get("role") not in ROLES:
            raise LabError(f"{where}: {sorted(unknown) or meta.get('role')!r} is not understood; roles are {ROLES}")
        points = meta.get("points", 0)
        if not isinstance(points, int) or points < 0 or (points and meta["role"] not in ("check", "essay")):
            raise LabError(f"{where}: points {points!r}; a check or essay cell has a whole number of them")
        if name in ids:
            raise LabError(f"{where}: the id stands twice")
        ids.add(name)
        run = raw["cell_type"] == "code" and raw.get("execution_count") is not None
        options = {k: meta[k] for k in ("points", "rtol", "atol", "judge", "hint") if k in meta}
        task = meta.get("task", "")
        cells.append(Cell(name, meta["role"], task, text(raw), outputs=raw["outputs"] if run else None, **options))
    lab = Lab(stem, cells, nb)
    for task in lab.tasks:
        if lab.of(task, "check") and not lab.of(task, "answer", "predict"):
            raise LabError(f"{stem}: task {task!r} is checked but has no answer cell")
        for cell in lab.of(task, "check"):
            if re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.M):
                raise LabError(f"{stem}, cell {cell.id!r}: nbval's comment markers would switch the check off")
            if lab.of(task, "given") and re.search(r"\bSEED\b", cell.source):
                raise LabError(f"{stem}, cell {cell.id!r}: a task with a given cell keeps SEED out of its checks")
    if not lab.tasks:
        raise LabError(f"{stem} is no lab: no cell has points in its metadata")
    return lab


def read_solution(lab: Lab, solutions: Path) -> str:
    """Return the source of the lab's solution in the folder `solutions`."""
    path = Path(solutions) / f"{lab.stem}.py"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise LabError(f"cannot read the solution {path}: {e.strerror}") from None


def read_judges(lab: Lab, labs: Path) -> str:
    """Return the source of the lab's judges, empty if it names none."""
    names = {c.judge for c in lab.cells if c.judge}
    if not names:
        return ""
    path = Path(labs) / "judges" / f"{lab.stem}.py"
    try:
        source = path.read_text(encoding="utf-8")
        defined = {n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
    except OSError as e:
        raise LabError(f"cannot read the judges {path}: {e.strerror}") from None
    except SyntaxError as e:
        raise LabError(f"{path}, line {e.lineno}: {e.msg}") from None
    if names - defined:
        raise LabError(f"{path} defines no {', '.join(sorted(names - defined))}")
    return source


def student_copy(nb: dict) -> dict:
    """Return a lab's notebook without what would give an answer away.

    Only targets stay that say what an answer does: not those of predictions, nor those of judged checks, which print
    the solution's own choices.
    """
    nb = copy.deepcopy(nb)
    metas = [cell.get("metadata", {}).get("vlib", {}) for cell in nb["cells"]]
    predicted = {m.get("task") for m in metas if m.get("role") == "predict"}
    for cell, meta in zip(nb["cells"], metas, strict=True):
        target = meta.get("role") == "check" and meta.get("task") not in predicted and not meta.get("judge")
        if cell["cell_type"] == "code" and not target:
            cell["outputs"], cell["execution_count"] = [], None
    return nb


def dump(nb: dict) -> str:
    """Return the notebook's file text as Jupyter writes it."""
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
