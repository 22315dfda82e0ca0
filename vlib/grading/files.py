"""Write files whole or not at all, and fingerprint what marks depend on."""

import contextlib
import functools
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path

from .notebook import LabError


def write(path: Path, data: str | bytes):
    """Write a file so that a reader, or a restart after a crash, sees the old one or the new one, never a part.

    Raises LabError where it cannot be written; then nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    data = data.encode("utf-8") if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink()
        raise LabError(f"cannot write {path}: {e.strerror}") from None


@contextlib.contextmanager
def locked(folder: Path):
    """Hold a folder of results for this process alone, and clear what an interrupted one left half written."""
    import fcntl  # marking a class needs Linux; reading this module does not

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(f"another vlib is at work in {folder}") from None
        for part in folder.rglob(".*.part"):
            part.unlink()
        yield


def read_json(path: Path) -> dict:
    """Return the mapping in a JSON file; an empty one if there is no such file or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(*parts) -> str:
    """Return a fingerprint of byte strings and plain data."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


@functools.cache
def course_version() -> str:
    """Return the course's version: the package's, and a fingerprint of its modules, on which marks depend."""
    package = Path(__file__).resolve().parents[1]
    sources = [(str(p.relative_to(package)), p.read_bytes()) for p in sorted(package.rglob("*.py"))]
    total = digest(*[part for name, data in sources for part in (name, data)])
    return f"{metadata.version('vlib')}+{total[:10]}"
