"""Take from a submission the definitions that its answers need: definitions are trusted, cells are not.

For each answer name the last definition counts, and with it every top-level statement that it needs, transitively.
Where a helper is defined several times (each task may have its own `step`), the one that stood at the answer counts.
"""

import ast
import re
import symtable
import warnings
from dataclasses import dataclass

from .notebook import Lab, text

# Cell magics whose body is Python; every other one (bash, html, writefile, ...) is another language.
PYTHON_MAGICS = {"time", "timeit", "capture", "prun", "python", "python3", "pypy", "debug"}
# Methods that change what they are called on: `table.append(1)` belongs to the definition of `table`.
MUTATORS = {"add", "append", "appendleft", "clear", "discard", "extend", "fill", "insert", "pop", "popleft"}
MUTATORS |= {"put", "remove", "reverse", "seed", "setdefault", "seterr", "sort", "update"}
HARMLESS = {"print", "display", "show", "len", "type", "help", "repr"}  # functions that change no argument
CALLS = (ast.Call, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.Attribute, ast.Await)


@dataclass
class Answer:
    """What a submission says to one task: source that defines the answer names, and what is wrong with it."""

    source: str
    problem: str = ""


@dataclass
class Statement:
    """One top-level statement of a submission."""

    cell: int
    source: str
    form: str  # ast.dump: equal for equal statements, whatever their layout
    node: ast.stmt
    binds: set[str]
    reads: set[str]
    reads_now: set[str]  # what it reads when it is executed itself, not when a function it defines is called
    star: bool = False  # from x import * and the like: may bear on anything, so every answer gets it
    maybe: bool = False  # a call that may change what it is called with: where it fails, it was only tried out


@dataclass
class Definitions:
    """The top-level statements of a notebook in order, and the cells that are no Python."""

    statements: list[Statement]
    broken: list[tuple[str, str]]  # (source, what is wrong)

    def __post_init__(self):
        self._find_changes()
        self.statements = [s for s in self.statements if s.binds or s.star]
        self._binding = {}
        for i, statement in enumerate(self.statements):
            for name in statement.binds:
                self._binding.setdefault(name, []).append(i)

    def _find_changes(self):
        """Let a call such as build(), heappush(heap, 1) or graph.join(1, 2) count for the objects that it may change."""
        objects, changed_by = set(), {}
        for statement in self.statements:
            value = getattr(statement.node, "value", None)
            if isinstance(statement.node, (ast.Assign, ast.AnnAssign)) and not isinstance(value, ast.Constant):
                objects |= statement.binds
            if isinstance(statement.node, ast.FunctionDef):
                changed_by[statement.node.name] = {b for n in ast.walk(statement.node) if (b := _changed(n))}
        for statement in self.statements:
            call = statement.node.value if isinstance(statement.node, ast.Expr) else None
            if isinstance(call, ast.Call) and not statement.binds and not statement.star:
                name = call.func.id if isinstance(call.func, ast.Name) else ""
                touched = {n.id for n in [call.func, *call.args] if isinstance(n, ast.Name)} - {name}
                if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                    touched.add(call.func.value.id)
                touched |= changed_by.get(name, set())
                statement.binds = touched & objects if name not in HARMLESS else set()
                statement.maybe = True

    def binding(self, name: str) -> list[int]:
        """The statements that bind or change `name`."""
        return self._binding.get(name, [])

    def own(self, name: str, stubs: set[str]) -> list[int]:
        """The same without the lab's own unsolved answers, if the student has any other."""
        return [i for i in self.binding(name) if self.statements[i].form not in stubs] or self.binding(name)


def definitions(nb: dict, without: set[str] = frozenset()) -> Definitions:
    """Return the statements of a notebook; cells retyped to Markdown count as if they stood before the others.

    Left out are statements whose form is in `without`, and all that would bind SEED or show.
    """
    found, broken = [], []
    cells = [c for c in nb["cells"] if isinstance(c, dict)]
    code = [text(c) for c in cells if c.get("cell_type") == "code"]
    retyped = [text(c) for c in cells if c.get("cell_type") in ("markdown", "raw")]
    for number, source in enumerate(retyped):
        if re.search(r"^\w+ *=|^def |^class ", source, re.M):
            found += _statements(number - len(retyped), source)[0]
    for number, source in enumerate(code):
        statements, wrong = _statements(number, source)
        found += statements
        if wrong:
            broken.append((source, wrong))
    kept = [s for s in found if s.form not in without and not s.binds & {"SEED", "show"}]
    return Definitions(kept, broken)


def from_python(source: str) -> dict:
    """Return a plain Python file (a solution, a proving submission) as a notebook of one cell."""
    return {"cells": [{"cell_type": "code", "source": source}]}


def bound_names(source: str) -> set[str]:
    """Return the names that a cell binds at its top level.

    >>> sorted(bound_names("a = [b for b in (1, 2)]"))
    ['a']
    """
    return {name for statement in _statements(0, source)[0] for name in statement.binds}


def answer_names(lab: Lab, task: str) -> list[str]:
    """Return the names that the answer cells of `task` define in the lab."""
    return sorted({name for cell in lab.of(task, "answer", "predict") for name in bound_names(cell.source)})


def extract(lab: Lab, nb: dict) -> dict[str, Answer]:
    """Return for each checked task of `lab` what the notebook `nb` answers."""
    setup = "\n".join(c.source for c in lab.cells if c.role in ("setup", "given"))
    given = {s.form for s in _statements(0, setup)[0]}
    stubs = {s.form for c in lab.cells if c.role in ("answer", "predict") for s in _statements(0, c.source)[0]}
    theirs = definitions(nb, without=given)
    tasks = [t for t in lab.tasks if lab.of(t, "check")]
    answers = {t: set(answer_names(lab, t)) for t in tasks}
    every = set().union(*answers.values())
    found = {}
    for task in tasks:
        try:
            found[task] = _answer(lab, task, answers[task], every, theirs, stubs)
        except RecursionError:
            found[task] = Answer("", "the definitions are nested too deeply to follow")
    return found


def essays(lab: Lab, nb: dict) -> dict[str, str]:
    """Return for each essay cell of `lab` what the notebook says there.

    The cell is known by its id or its metadata; where both are lost, by being text that the lab has not.
    """
    given = {text(c).strip() for c in lab.notebook["cells"]}
    cells = [c for c in nb["cells"] if isinstance(c, dict)]
    own = [text(c) for c in cells if c.get("cell_type") != "code" and text(c).strip() not in given]
    found = {}
    for essay in (c for c in lab.cells if c.role == "essay"):
        same = [text(c) for c in cells if c.get("id") == essay.id or _task(c) == ("essay", essay.task)]
        changed = [t for t in same if t.strip() not in given]
        found[essay.id] = "\n\n".join(dict.fromkeys(changed or own)).strip()
    return found


def _task(cell):
    meta = cell.get("metadata")
    meta = meta.get("vlib") if isinstance(meta, dict) else None
    return (meta.get("role"), meta.get("task")) if isinstance(meta, dict) else None


def _answer(lab, task, names, every, theirs, stubs):
    # A check may also call what another task asked for.
    for cell in lab.of(task, "check"):
        names = names | (every & {n for s in _statements(0, cell.source)[0] for n in s.reads})
    chosen, missing = set(), []
    for i, statement in enumerate(theirs.statements if not lab.predicts(task) else ()):
        if statement.star:
            for name in statement.reads:
                chosen |= _needed(theirs, name, theirs.own(name, stubs), statement.cell, every, stubs)
            chosen.add(i)
    for name in sorted(names):
        binding = theirs.own(name, stubs)
        if not binding:
            missing.append(name)
            continue
        chosen |= _needed(theirs, name, binding, theirs.statements[binding[-1]].cell, every, stubs)
    problem = ""
    for name in missing:
        broken = [wrong for source, wrong in theirs.broken if re.search(rf"\b{re.escape(name)}\b", source)]
        problem = problem or (f"the cell that defines {name} is not Python: {broken[-1]}" if broken else "")
        problem = problem or f"{name} is not defined"
    if lab.predicts(task):
        chosen = {i for i in chosen if not theirs.statements[i].maybe}
    if lab.predicts(task) and any(isinstance(n, CALLS) for i in chosen for n in ast.walk(theirs.statements[i].node)):
        return Answer("", problem or "a prediction is a plain value, worked out by hand")
    found = [theirs.statements[i] for i in _in_order(theirs, chosen)]
    found.sort(key=lambda s: not _is_future(s.node))  # Python wants these first
    return Answer("\n".join(_if_it_works(s) if s.maybe else s.source for s in found), problem)


def _if_it_works(statement):
    return f"try: {ast.unparse(statement.node)}\nexcept Exception: pass"


def _is_future(node):
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _needed(theirs, name, binding, anchor, every, stubs, seen=None):
    """Return the statements that define `name`, with all that they need."""
    seen = set() if seen is None else seen
    seen.add(name)
    chosen = set()
    for i in reversed(binding):
        statement = theirs.statements[i]
        chosen.add(i)
        for other in sorted(statement.reads - seen):
            others = theirs.own(other, stubs)
            if other not in every:
                others = [i for i in others if theirs.statements[i].cell <= anchor] or others
            chosen |= _needed(theirs, other, others, anchor, every, stubs, seen) if others else set()
        if _replaces(statement, name):
            break
    return chosen


def _replaces(statement, name):
    """Whether the statement gives `name` a value of its own, so that what stood before does not matter."""
    node = statement.node
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    plain = all(isinstance(t, (ast.Name, ast.Tuple, ast.List)) for t in targets if t is not None)
    plain = plain and getattr(node, "value", node) is not None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    return isinstance(node, kinds) and plain and name not in statement.reads_now


def _in_order(theirs, chosen):
    """Order statements as in the notebook, but what is bound only later before the statement that runs on it."""
    order, seen = [], set()

    def put(i):
        if i in seen:
            return
        seen.add(i)
        needs, names = set(), list(theirs.statements[i].reads_now)
        visited = set(names)
        while names:
            name = names.pop()
            binding = [j for j in theirs.binding(name) if j in chosen]
            needs |= set(binding) if not any(j < i for j in binding) else set()
            for new in {n for j in binding for n in theirs.statements[j].reads} - visited:
                visited.add(new)
                names.append(new)
        for j in sorted(needs - {i}):
            put(j)
        order.append(i)

    for i in sorted(chosen):
        put(i)
    return order


def _statements(number, source):
    """Return the statements of a cell, and what is wrong with it if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source, tree = _parse(source)
            lines = source.split("\n")
            kept = [node for node in tree.body if not isinstance(node, ast.Delete) and not _only_runs(node)]
            return [_statement(number, lines, node) for node in kept], ""
    except SyntaxError as e:
        return [], f"line {e.lineno}: {e.msg}"
    except (ValueError, RuntimeError, MemoryError) as e:
        return [], str(e)[:80] or type(e).__name__


def _parse(source):
    magic = re.match(r"\s*%%(\w+)[^\n]*\n?", source)
    if magic:
        source = source[magic.end() :] if magic[1] in PYTHON_MAGICS else ""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    try:
        return source, ast.parse(source)
    except SyntaxError:
        if not re.search(r"^[ \t]*[%!?]|[=][ \t]*[%!]|\?[ \t]*$", source, re.M):
            raise
    from IPython.core.inputtransformer2 import TransformerManager  # slow to import, and few cells need it

    source = TransformerManager().transform_cell(source)
    return source, ast.parse(source)


def _only_runs(node):
    """Whether a statement is an expression that binds and changes nothing: `table`, a docstring, `await task`."""
    return isinstance(node, ast.Expr) and not isinstance(node.value, (ast.Call, ast.NamedExpr))


def _statement(number, lines, node):
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])  # ast counts a definition from its `def`
    part = [line.encode() for line in lines[first - 1 : node.end_lineno]]  # and its columns in bytes
    part[-1] = part[-1][: node.end_col_offset]
    part[0] = part[0][0 if decorators else node.col_offset :]
    segment = b"\n".join(part).decode()
    table = symtable.symtable(segment, "<answer>", "exec")
    reads = {s.get_name() for s in table.get_symbols() if s.is_referenced()} | _globals_read(table)
    binds = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    if not function and not isinstance(node, ast.ClassDef):
        binds |= {base for part in ast.walk(node) if (base := _changed(part))}
    star = isinstance(node, ast.ImportFrom) and (_is_future(node) or any(a.name == "*" for a in node.names))
    star = star or (isinstance(node, ast.Expr) and "setrecursionlimit(" in segment)
    now = reads
    if function:
        args = [*decorators, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        args += [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation]
        args += [node.returns] if node.returns else []
        now = {n.id for a in args for n in ast.walk(a) if isinstance(n, ast.Name)}
    return Statement(number, segment, ast.dump(node), node, binds, reads, now, star)


def _changed(part):
    """Return the name that t[k] = v, t.a = v or t.append(v) changes, if `part` is such."""
    if isinstance(part, (ast.Subscript, ast.Attribute)) and isinstance(part.ctx, (ast.Store, ast.Del)):
        base = part.value
    elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in MUTATORS:
        base = part.func.value
    else:
        return None
    while isinstance(base, (ast.Subscript, ast.Attribute)):
        base = base.value
    return base.id if isinstance(base, ast.Name) else None


def _globals_read(table):
    names = set()
    for child in table.get_children():
        names |= {s.get_name() for s in child.get_symbols() if s.is_global()} | _globals_read(child)
    return names
