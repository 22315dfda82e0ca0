import os
import zipfile

import pytest
from small_lab import LABS

from vlib.grading.cli import main
from vlib.grading.notebook import LARGEST, LabError
from vlib.grading.submissions import file_name, find


def put(folder, *paths):
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")


def students(source):
    entries, problems = find(source, "lab01_pages")
    return {e.student: (e.name, e.path) for e in entries}, problems


def test_a_folder_for_each_student(tmp_path):
    put(tmp_path, "ada/lab01_pages.ipynb", "bob/final version (2).ipynb", "eve/work/lab01_pages.ipynb", "readme.txt")
    put(tmp_path, "ada/.ipynb_checkpoints/lab01_pages-checkpoint.ipynb", "ada/notes.txt", "eve/scratch.ipynb")
    found, problems = students(tmp_path)
    assert {s: p for s, (_, p) in found.items()} == {
        "ada": "ada/lab01_pages.ipynb",
        "bob": "bob/final version (2).ipynb",
        "eve": "eve/work/lab01_pages.ipynb",
    }
    assert problems == []


def test_moodle_s_and_canvas_s_names(tmp_path):
    names = ["Ada Lovelace_1815_assignsubmission_file_/lab01_pages.ipynb"]
    names += ["Bob B_77_assignsubmission_file_lab01_pages.ipynb", "evee_LATE_555_91_lab01_pages-1.ipynb"]
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    found, problems = students(path)
    assert {s: n for s, (n, _) in found.items()} == {"1815": "Ada Lovelace", "77": "Bob B", "555": "evee"}
    assert problems == []


def test_nobody_hands_in_for_another_by_a_file_s_name(tmp_path):
    put(tmp_path / "moodle", "Eve_5_assignsubmission_file_Ada_9_assignsubmission_file_lab01.ipynb")
    assert students(tmp_path / "moodle")[0] == {
        "5": ("Eve", "Eve_5_assignsubmission_file_Ada_9_assignsubmission_file_lab01.ipynb")
    }
    put(tmp_path / "folders", "eve/ada_9_1_lab01.ipynb", "bob/lab01.ipynb")
    assert sorted(students(tmp_path / "folders")[0]) == ["bob", "eve"]


def test_a_folder_around_an_export_is_no_student(tmp_path):
    put(tmp_path, "submissions/ada_9_1_lab01.ipynb", "submissions/bob_8_2_lab01.ipynb")
    assert {s: n for s, (n, _) in students(tmp_path)[0].items()} == {"9": "ada", "8": "bob"}


def test_files_of_two_students_never_have_one_name():
    for odd in ("../ada", "Ada", "ada ", "\udcff", "con?"):
        assert file_name(file_name(odd)) != file_name(odd)


def test_damaged_archives(tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ada/lab01.ipynb", os.urandom(5000))
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + b"\xff" * 100 + whole[160:])
    (entry,), _ = find(path, "lab01_pages")
    with pytest.raises(LabError, match=r"cannot read 'ada/lab01\.ipynb'"):
        entry.read()
    path.write_bytes(b"PK" + os.urandom(50) + whole[-22:])
    with pytest.raises(LabError, match="archive"):
        find(path, "lab01_pages")


def test_a_folder_s_name_that_is_no_text(tmp_path):
    put(tmp_path, "ada/lab01.ipynb", b"\xff\xfe".decode(errors="surrogateescape") + "/lab01.ipynb")
    found, _ = students(tmp_path)
    assert all(student.encode() for student in found) and len(found) == 2


def test_names_in_an_archive_do_no_harm(tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "../../../evil/lab01.ipynb",
            "/etc/lab01.ipynb",
            "..\\..\\win/lab01.ipynb",
            "__MACOSX/x/lab01.ipynb",
        ):
            archive.writestr(name, "{}")
    before = sorted(tmp_path.rglob("*"))
    entries, _ = find(path, "lab01_pages")
    assert sorted(e.student for e in entries) == ["etc", "evil", "win"]
    assert [e.read() for e in entries] == [b"{}"] * 3 and sorted(tmp_path.rglob("*")) == before


def test_a_bomb_is_read_no_further_than_needed(tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ada/lab01.ipynb", b"0" * (LARGEST * 3))
    (entry,), _ = find(path, "lab01_pages")
    assert len(entry.read()) == LARGEST + 1


def test_two_files_of_one_student(tmp_path):
    put(tmp_path, "ada/lab01_a.ipynb", "ada/lab01_b.ipynb", "bob/lab01.ipynb")
    found, problems = students(tmp_path)
    assert list(found) == ["bob"] and "'ada' has 2 files" in problems[0]


def test_links_and_pipes_are_not_followed(tmp_path):
    put(tmp_path, "ada/lab01.ipynb")
    for name in ("eve", "bob"):
        (tmp_path / name).mkdir()
    (tmp_path / "eve" / "lab01.ipynb").symlink_to(tmp_path / "ada" / "lab01.ipynb")
    os.mkfifo(tmp_path / "bob" / "lab01.ipynb")
    entries = {e.student: e for e in find(tmp_path, "lab01_pages")[0]}
    assert entries["ada"].read() == b"{}"
    for name in ("eve", "bob"):
        with pytest.raises(LabError):
            entries[name].read()


@pytest.mark.parametrize("student", ["../../x", "a/b", "=1+1", "con\n", "", ".", "名", "A" * 500, "\udc80"])
def test_a_file_s_name_is_safe(student):
    name = file_name(student)
    assert name.isascii() and len(name) < 80 and not set(name) & set("/\\\n=") and name.strip(".")


def test_different_students_have_different_files():
    ids = ["ada", "Ada", "a/da", "a-da", "a da", "ADA"]
    assert len({file_name(s).lower() for s in ids}) == len(ids)


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_nothing_to_mark_is_one_line_and_status_2(tmp_path, what, capsys):
    source = tmp_path / what
    if what == "empty":
        source.mkdir()
    if what == "file":
        source.write_text("x")
    assert main(["grade", "lab01", str(source), "--out", str(tmp_path / "g"), "--unsafe", "--labs", str(LABS)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(source) in error
