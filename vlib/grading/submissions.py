"""Find the submissions of a class: a folder for each student, or what Moodle and Canvas export, as folder or zip."""

import contextlib
import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .kernel import clean
from .notebook import LARGEST, LabError

# The name of the file at the end is the student's choice, and may imitate all that stands before it.
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_file(?:_(?P<file>.*))?")
CANVAS = re.compile(r"(?P<name>[^_]+)(?:_LATE)?_(?P<id>\d+)_(?P<file>\d+)_.+\.ipynb", re.I)
SKIPPED = ("__MACOSX", ".ipynb_checkpoints")


@dataclass(frozen=True)
class Entry:
    """A student's file, not yet read."""

    student: str
    name: str  # as the LMS has it; empty if it has none
    path: str  # where it stands in the folder or the archive
    read: Callable[[], bytes] = field(repr=False)

    @property
    def file_name(self) -> str:
        """A name for files about this student: safe on every system, and no other student's."""
        return file_name(self.student)


def file_name(student: str) -> str:
    """Return a file's stem for a student's id, which may hold anything.

    >>> file_name("ada.l"), file_name("../../etc/passwd")
    ('ada.l', 'etc-passwd~3754d6cb')
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9._@+-]{0,60}", student) and not student.endswith("."):
        return student
    slug = re.sub(r"[^A-Za-z0-9]+", "-", student).strip("-")[:40]
    return f"{slug or 'student'}~{hashlib.sha256(student.encode('utf-8', 'replace')).hexdigest()[:8]}"


def find(source: Path, stem: str) -> tuple[list[Entry], list[str]]:
    """Return the submissions in `source`, one a student, and a line about each file that cannot be taken.

    Where a student has several notebooks, the only one that is named for the lab counts.
    """
    source = Path(source)
    if source.is_dir():
        files = _in_folder(source)
    elif source.is_file() and zipfile.is_zipfile(source):
        files = _in_zip(source)
    else:
        raise LabError(f"{source} is no folder and no zip of submissions")
    by_student, problems = {}, []
    for path, read in _without_wrapper(list(files)):
        student, name = _who(path)
        if student:
            by_student.setdefault(student, []).append(Entry(student, name, str(path), read))
        else:
            problems.append(f"{path}: whose is it? Expected is STUDENT/LAB.ipynb, or Moodle's or Canvas's name")
    if not by_student:
        raise LabError(f"there is no submission in {source}; expected is STUDENT/LAB.ipynb")
    entries = []
    for student, found in sorted(by_student.items()):
        named = [e for e in found if stem.split("_")[0] in e.path.rsplit("/", 1)[-1].lower()]
        found = found if len(found) == 1 else named or found
        if len(found) > 1:
            paths = ", ".join(sorted(e.path for e in found))
            problems.append(f"{student!r} has {len(found)} files for this lab, and none was marked: {paths}")
        else:
            entries += found
    return entries, problems


def _lms(path):
    """Return what an LMS says in the first part of a path, which is its own and not a student's choice."""
    found = MOODLE.fullmatch(path.parts[0].removesuffix(".ipynb"))
    return found or (CANVAS.fullmatch(path.name) if len(path.parts) == 1 else None)


def _without_wrapper(files):
    """Drop the one folder that unpacking or packing an LMS's archive again puts around all of it."""
    inner = [PurePosixPath(*path.parts[1:]) for path, _ in files if len(path.parts) > 1]
    if len(inner) < len(files) or len({path.parts[0] for path, _ in files}) != 1 or not all(map(_lms, inner)):
        return files
    return [(path, read) for path, (_, read) in zip(inner, files, strict=True)]


def _who(path):
    """Return a student's id and name from where the file stands."""
    if match := _lms(path):
        return match["id"], match["name"]
    if len(path.parts) > 1:
        return path.parts[0], ""
    return path.stem, ""


def _wanted(path):
    parts = path.parts
    return path.suffix.lower() == ".ipynb" and not any(p.startswith(".") or p in SKIPPED for p in parts)


def _in_folder(source) -> Iterator[tuple[PurePosixPath, Callable]]:
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = PurePosixPath(clean(str(Path(folder, name).relative_to(source))))
            if _wanted(path):
                yield path, lambda path=Path(folder, name): _read_file(path)


def _read_file(path):
    """Read a regular file only: a link could point at another's work, a pipe would never end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise LabError(f"{path} is not a file")
            return file.read(LARGEST + 1)
    except OSError as e:
        raise LabError(f"cannot read {path}: {e.strerror}") from None


def _in_zip(source):
    """Yield the members; nothing is unpacked to disk, so their names can do no harm."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError) as e:
        raise LabError(f"cannot read the archive {source}: {e}") from None
    for info in sorted(archive.infolist(), key=lambda i: i.filename):
        name = clean(info.filename).replace("\\", "/")
        path = PurePosixPath(*[p for p in name.split("/") if p not in ("", ".", "..")] or ["."])
        if not info.is_dir() and _wanted(path):
            yield path, lambda info=info: _read_member(archive, info)


def _read_member(archive, info):
    try:
        with contextlib.closing(archive.open(info)) as member:
            return member.read(LARGEST + 1)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, ValueError) as e:
        raise LabError(f"cannot read {info.filename!r} in the archive: {e}") from None
