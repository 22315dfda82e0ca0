"""The walls of the house: who may import whom, what a topic consists of, and what is kept out of the repository."""

import ast
import csv
import json
import re
import statistics
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "vlib"

# The chapter of each model. A model may lean on those of its own chapter and of earlier ones, never on later ones.
CHAPTER = {
    "costs": 0,
    "hosting": 2,
    "popek_goldberg": 3, "x86": 3, "guests": 3, "monitors": 4,
    "scheduling": 5,
    "paging": 6, "overcommit": 6,
    "devices": 7, "iommu": 7, "virtio": 7,
    "workloads": 8, "migration": 8, "stop_rules": 8, "postcopy": 8, "qemu_migration": 8, "clients": 8,
    "handover": 8, "fidelity": 8, "network": 8,
    "images": 1, "storage": 9,
    "isolation": 10,
    "datacenter": 11,
}  # fmt: skip
APART = {"plots", "explore", "real", "grading"}  # the views, the bridges and the marking


def tracked(*patterns):
    """The files of the repository, new ones included and ignored ones not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for path in (ROOT / line for line in set(run.stdout.splitlines())) if path.is_file())


def part(path):
    """The module or package directly below `vlib` that a file belongs to."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports(path, at_import_only=False):
    """The modules that a file imports, by full name; `from vlib import x` counts as `vlib.x`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = top_level(tree) if at_import_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = "vlib" if path.parent == LIBRARY else ".".join(path.parent.relative_to(ROOT).parts)
            base = (
                ".".join(filter(None, (package.rsplit(".", node.level - 1)[0], node.module)))
                if node.level
                else node.module
            )
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "vlib" else {base}
    return found


def top_level(tree):
    """The statements that run when a module is imported."""
    for node in tree.body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from ast.walk(node)
        else:
            yield node


SOURCES = [path for path in tracked("vlib/*.py") if part(path) != "__init__"]
MODELS = [path for path in SOURCES if part(path) not in APART]


def test_every_model_has_its_chapter():
    unknown = {part(path) for path in MODELS} - set(CHAPTER)
    assert not unknown, f"say in tests/test_house.py which chapter they belong to: {sorted(unknown)}"


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_model_imports_the_standard_library_numpy_and_models_before_it(path):
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "vlib":
            other = rest.partition(".")[0]
            assert other in CHAPTER, f"a model imports {name}"
            assert CHAPTER[other] <= CHAPTER[part(path)], f"{part(path)} leans on a later chapter's {other}"
        else:
            assert package in sys.stdlib_module_names or package == "numpy", f"a model imports {name}"


def test_no_two_models_lean_on_each_other():
    graph = {}
    for path in MODELS:
        others = {name.split(".")[1] for name in imports(path) if name.startswith("vlib.")} - {part(path)}
        graph.setdefault(part(path), set()).update(others)
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_the_views_draw_and_only_explore_makes_widgets():
    for path in SOURCES:
        names = {name.partition(".")[0] for name in imports(path)}
        assert "matplotlib" not in names or part(path) in ("plots", "explore"), path
        assert "ipywidgets" not in names or part(path) == "explore", path


@pytest.mark.parametrize("package", ["grading", "real"])
def test_the_marking_and_the_bridges_know_no_model(package):
    for path in SOURCES:
        if part(path) == package:
            known = {name.split(".")[1] for name in imports(path) if name.startswith("vlib.")}
            assert not known & (set(CHAPTER) - {"costs"}), path


def test_what_readers_and_students_import_asks_for_nothing_that_only_unix_has():
    todo = [path for path in SOURCES if part(path) not in ("grading", "real")]
    todo += [LIBRARY / "grading" / name for name in ("cli.py", "show.py")]  # `vlib check` and what a lab imports
    seen = set()
    while todo:
        path = todo.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        names = imports(path, at_import_only=True)
        unix = {"fcntl", "resource", "pwd", "grp", "termios", "pty"} & names
        assert not unix, f"{path.name} imports {unix} when it is imported"
        for name in names:
            if name.startswith("vlib."):
                place = ROOT.joinpath(*name.split("."))
                todo += [place.with_suffix(".py"), place / "__init__.py"]


@pytest.mark.parametrize("path", tracked("*.py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_in_one_sitting(path):
    limit = 400 if LIBRARY in path.parents else 600
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
    assert path.stem != "utils", "a module is named for what it does"


def test_models_neither_print_nor_look_at_the_clock():
    banned = {"print", "time.time", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.datetime.now"}
    for path in MODELS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if getattr(node, "name", None) == "main":
                continue  # a command's own output
            called = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
            assert not called & banned, f"{path.name} calls {called & banned}"


# --- topics -----------------------------------------------------------------------------------------------------------

STEMS = sorted(
    {path.stem[2:] for path in tracked("book/ch*.md")} | {path.stem[3:] for path in tracked("labs/lab*.ipynb")}
)


@pytest.mark.parametrize("stem", STEMS)
def test_a_topic_is_five_files_with_one_stem(stem):
    number, _, name = stem.partition("_")
    assert re.fullmatch(r"\d\d", number) and name
    model = LIBRARY / name if (LIBRARY / name).is_dir() else LIBRARY / f"{name}.py"
    files = [
        ROOT / "book" / f"ch{stem}.md",
        ROOT / "labs" / f"lab{stem}.ipynb",
        ROOT / "labs" / "solutions" / f"lab{stem}.py",
        model,
        ROOT / "tests" / f"test_{name}.py",
    ]
    missing = [str(path.relative_to(ROOT)) for path in files if not path.exists()]
    assert not missing, f"the topic {stem} lacks {missing}"
    toc = (ROOT / "_toc.yml").read_text()
    assert f"book/ch{stem}" in toc and f"labs/lab{stem}" in toc


@pytest.mark.parametrize("path", tracked("labs/lab*.ipynb"), ids=lambda path: path.stem)
def test_a_lab_is_unsolved_and_only_its_checks_have_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        role = cell["metadata"].get("vlib", {}).get("role")
        if cell["cell_type"] == "code":
            if role == "check":
                assert cell["outputs"] and cell["execution_count"], f"{cell['id']} has no target"
            else:
                assert not cell["outputs"] and cell["execution_count"] is None, f"{cell['id']} has outputs"


def test_notebooks_are_labs_or_belong_to_tests():
    for path in tracked("*.ipynb"):
        assert path.relative_to(ROOT).parts[0] in ("labs", "tests"), path


@pytest.mark.parametrize("path", tracked("book/ch*.md"), ids=lambda path: path.stem)
def test_the_cells_of_a_chapter_are_short_and_do_not_plot(path):
    cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert cells, "a chapter runs"
    assert "format_name: myst" in path.read_text(encoding="utf-8"), "without jupytext's header the cells are dropped"
    assert statistics.median(len(source.splitlines()) for source in cells) <= 6
    for source in cells:
        assert "matplotlib" not in source and "plt." not in source, f"plotting belongs in vlib/plots.py:\n{source}"


def glossary():
    with open(ROOT / "book" / "glossary.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_glossary_has_each_term_once_in_both_languages():
    rows = glossary()
    assert len(rows) >= 60
    english = [row["English"].lower() for row in rows]
    assert len(set(english)) == len(english)
    for row in rows:
        assert None not in row and all(row.values()), row
        assert re.search(r"[\u4e00-\u9fff]", row["Chinese"]), row
        assert 1 <= int(row["Chapter"]) <= 11, row


@pytest.mark.parametrize("path", tracked("book/ch*.md"), ids=lambda path: path.stem)
def test_a_term_has_one_chinese_name_in_chapter_and_glossary(path):
    chinese = {}
    for row in glossary():
        for name in (
            row["English"],
            *re.findall(r"\(([^)]*)\)", row["English"]),
            re.sub(r" *\(.*?\)", "", row["English"]),
        ):
            chinese[name.lower()] = row["Chinese"]
    text = path.read_text(encoding="utf-8")
    for term, name in re.findall(r"\*\*([^*]+)\*\*\s*[(（]([^()（）]*[\u4e00-\u9fff][^()（）]*)[)）]", text):
        key = re.sub(r"\s+", " ", term).lower()
        assert key in chinese, f"{term} ({name}) is not in book/glossary.csv"
        here, there = ({one.strip() for one in names.split("/")} for names in (name, chinese[key]))
        assert here & there, f"{term}: {name} here, {chinese[key]} there"


def test_the_errata_are_complete_and_each_has_one_mark():
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", (ROOT / "book" / "errata.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(int(number) for number, _ in rows) == list(range(1, 51))
    for number, row in rows:
        cells = [cell.strip() for cell in row.split(" | ")]
        assert len(cells) == 4 and cells[2] in ("*wrong*", "*dated*", "*imprecise*", "*typo*"), number
        assert all(cells), number


# --- the repository ---------------------------------------------------------------------------------------------------


def test_requirements_are_pinned_and_end_with_the_course_itself():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "-e ."
    tests = [
        line for line in (ROOT / "tests" / "requirements.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    for line in lines[:-1] + tests:
        assert re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line), line


def test_no_file_names_a_package_index_or_a_machine():
    hosts = ["pypi" + ".org", "python" + "hosted", "npm" + "js", "deb.deb" + "ian", "/wo" + "rk/main"]
    for path in tracked():
        if "vendor" in path.parts or path.suffix in (".png", ".woff"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [host for host in hosts if host in text], path


def test_vendored_files_are_listed_with_their_licence():
    folder = ROOT / "book" / "_web" / "vendor"
    listed = (folder / "VENDORED.md").read_text(encoding="utf-8")
    for part_of in (path for path in folder.iterdir() if path.is_dir()):
        assert f"`{part_of.name}/`" in listed
        assert (part_of / "LICENSE").stat().st_size > 1000


def test_the_readme_opens_with_what_this_is_a_picture_and_two_commands():
    screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    (picture,) = re.findall(r"!\[[^]]{20,}\]\(([^)]+)\)", screen)
    assert (ROOT / picture).stat().st_size < 150_000
    assert "make book" in screen and "make test" in screen
