"""The outer sandbox: what a process that touches submissions may see and use. Linux, with bubblewrap."""

import os
import shutil
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path

from .notebook import LabError

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
)


@dataclass(frozen=True)
class Limits:
    """What a kernel may use; memory, disk and output in bytes, times in seconds."""

    seconds: float = 10.0  # of one cell
    memory: int = 1 << 30
    processes: int = 32
    disk: int = 64 << 20
    output: int = 16 << 20

    def as_dict(self) -> dict:
        """Return the limits as plain data, with the processor time that is the last resort."""
        return {**asdict(self), "cpu": int(self.seconds * 20) + 60}


def command(program: list[str]) -> list[str]:
    """Return the command that runs `program` with a read-only view of the system, Python and vlib, and no network.

    As root the binds are made as root (an environment in a home that others cannot enter is no hindrance), and
    `program` itself must drop to nobody first; else a user namespace is used.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise LabError("there is no sandbox: bubblewrap (bwrap) is not installed; see `vlib doctor`, or use --unsafe")
    args = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    args += ["--die-with-parent", "--new-session", "--hostname", "lab", "--clearenv"]
    if os.getuid() == 0:
        args += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        args += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    for name, value in environment().items():
        args += ["--setenv", name, value]
    for path in SYSTEM:
        if os.path.islink(path):
            args += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            args += ["--ro-bind", path, path]
    for path in visible():
        for folder in reversed(path.parents[:-1]):  # bubblewrap would make them for its own user only
            args += ["--perms", "0755", "--dir", str(folder)]
        args += ["--ro-bind", str(path), str(path)]
    args += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--remount-ro", "/dev"]
    return [*args, "--remount-ro", "/", "--chdir", "/tmp", "--", *program]


def visible() -> list[Path]:
    """Return the folders besides the system's that the sandbox shows: Python, its packages, and vlib."""
    package = Path(__file__).resolve().parents[1]
    folders = {Path(sys.base_prefix), Path(sys.prefix), Path(sysconfig.get_path("purelib")), package}
    folders |= {Path(os.path.realpath(folder)) for folder in folders}
    folders = [f for f in folders if f.exists() and not str(f).startswith("/usr/") and str(f) not in ("/", "/usr")]
    return sorted(f for f in folders if not any(o in f.parents for o in folders))


def environment() -> dict[str, str]:
    """Return the environment of everything that touches a submission."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # the order of a set of strings is the same for everybody
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }
