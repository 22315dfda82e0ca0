"""The outer sandbox: what a process that touches submissions may see and use. Linux, with bubblewrap."""

import ast
import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path

from .kernel import start_process, starter
from .notebook import Lab, LabError

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


SCRATCH = "/scratch"  # the one folder in the sandbox to write to; a kernel has its own there


def command(program: list[str]) -> list[str]:
    """Return the command that runs `program` with a read-only view of the system, Python and vlib, and no network.

    As root the binds are made as root (an environment in a home that others cannot enter is no hindrance), and
    `program` itself must drop to nobody first; else a user namespace is used.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise LabError("bubblewrap (bwrap) is not installed")
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
    args += ["--tmpfs", "/tmp"]  # the course itself may lie below the real one; to write in there is SCRATCH
    for path in visible():
        for folder in reversed(path.parents[:-1]):  # bubblewrap would make them for its own user only
            args += ["--perms", "0755", "--dir", str(folder)]
        args += ["--ro-bind", str(path), str(path)]
    args += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", SCRATCH]
    return [
        *args,
        *("--remount-ro", "/dev", "--remount-ro", "/tmp", "--remount-ro", "/"),
        "--chdir",
        SCRATCH,
        "--",
        *program,
    ]


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
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # the order of a set of strings is the same for everybody
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }


@functools.cache
def trouble() -> str:
    """Return why there is no sandbox on this machine, in one line; empty if there is one."""
    if not sys.platform.startswith("linux"):
        return f"the sandbox needs Linux, and this is {sys.platform}: use a Linux machine, a container or WSL2"
    try:
        done = subprocess.run(
            command([sys.executable, "-c", PROBE]), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
    except (LabError, OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    if done.stdout.strip() == "sandboxed":
        return ""
    return " ".join((done.stderr or done.stdout).split())[-300:] or f"bubblewrap ended with status {done.returncode}"


# What a fork server will do, done once: become nobody, and make the namespaces of a kernel.
PROBE = """
import os
from vlib.grading import forkserver
forkserver.drop_root()
middle = forkserver.spawn(lambda: os._exit(7), {"memory": 1 << 30, "disk": 1 << 20, "processes": 9, "cpu": 9})
print("sandboxed" if os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1]) == 7 else "a kernel cannot be confined")
"""


def require():
    """Raise LabError unless students' code can be kept in a sandbox here."""
    if trouble():
        raise LabError(f"no sandbox: {trouble()}; see `vlib doctor` (--unsafe runs students' code as you)")


def fork_server(modules: list[str], limits: Limits) -> tuple[subprocess.Popen, socket.socket]:
    """Start a fork server in the sandbox; return its process and the socket to ask it for kernels."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        options = json.dumps({"control": its.fileno(), "modules": modules, "limits": limits.as_dict()})
        program = command([sys.executable, "-m", "vlib.grading.forkserver", options])
        return subprocess.Popen(program, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL), ours


@contextlib.contextmanager
def own_kernels(lab: Lab, judges: str = ""):
    """Give a function that starts kernels for the course's own code: forks where there is a sandbox, else processes."""
    if trouble():
        yield start_process
        return
    process, control = fork_server(imports(lab, judges), Limits())
    try:
        yield starter(control)
    finally:
        control.close()
        process.wait()


def imports(lab: Lab, judges: str) -> list[str]:
    """Return the modules that the lab's own cells and its judges import, so that a fork server has them ready."""
    names = set()
    for source in [judges, *(c.source for c in lab.cells if c.role == "setup")]:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return sorted(names)
