"""Say in plain words whether this machine can mark a class, and what to do where it cannot."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import sandbox
from .kernel import Kernel, starter
from .sandbox import Limits

# What a kernel must not be able to do; each expression says so.
PROBES = {
    "no network": "__import__('socket').socket().connect_ex(('127.0.0.1', 1)) != 0 and "
    "[i for _, i in __import__('socket').if_nameindex() if i != 'lo'] == []",
    "no way to a new user namespace": "__import__('ctypes').CDLL(None).unshare(0x10000000) == -1",
    "no view of other processes": "__import__('os').listdir('/proc') == []",
    "no privileges": "__import__('os').getuid() != 0 and not __import__('os').access('/usr', 2)",
    "a limit on memory": "__import__('resource').getrlimit(9)[0] > 0",
    "a limit on processes": "0 < __import__('resource').getrlimit(6)[0] < 1000",
}


def examine(secrets: list[Path]) -> Iterator[tuple[bool, str]]:
    """Yield what was looked at: whether it is well, and a line about it. `secrets` must not be visible inside."""
    linux = sys.platform.startswith("linux")
    yield (
        linux,
        f"system: {platform.system()} {platform.release()}" + ("" if linux else "; marking a class needs Linux"),
    )
    if not linux:
        yield False, "use a Linux machine, a container, or WSL2; `vlib check` works here all the same"
        return
    new = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit()) >= (5, 14)
    yield new, "kernel counts processes for each sandbox" if new else "kernel before 5.14: mark with --jobs 1"
    bwrap = shutil.which("bwrap")
    if not bwrap:
        yield False, "bubblewrap is not installed: apt-get install bubblewrap (Debian, Ubuntu), dnf install bubblewrap"
        return
    yield True, subprocess.run([bwrap, "--version"], capture_output=True, text=True).stdout.strip()
    why = sandbox.trouble()
    if why:
        yield False, f"the sandbox does not start: {why}"
        yield from _causes()
        return
    who = "nobody, since you are root" if os.getuid() == 0 else "a user without rights, in your name"
    yield True, f"the sandbox starts; students' code runs as {who}"
    folders = sandbox.visible()
    shown = [
        str(s) for s in secrets if s.exists() and any(f == s.resolve() or f in s.resolve().parents for f in folders)
    ]
    yield (
        not shown,
        f"visible inside, and should not be: {', '.join(shown)}" if shown else "labs and marks are not visible",
    )
    yield from _probes()


def _causes():
    """Yield the usual reasons why user namespaces are refused."""
    for path, bad, cure in (
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor (Ubuntu 24.04) forbids user namespaces: "
            "install an AppArmor profile for bwrap, or set kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0: set it to 10000 with sysctl"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone=1 with sysctl"),
    ):
        if Path(path).exists() and Path(path).read_text().strip() == bad:
            yield False, cure
    if Path("/.dockerenv").exists():
        yield False, "Docker forbids it by default: docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN"


def _probes():
    process, control = sandbox.fork_server([], Limits())
    kernel = starter(control)()
    try:
        for name, expression in PROBES.items():
            yield _says(kernel, expression), f"inside: {name}"
    finally:
        kernel.stop()
        control.close()
        process.wait()


def _says(kernel: Kernel, expression: str) -> bool:
    kernel.await_reply(kernel.execute_cell_input(f"from vlib.grading.show import show\nshow(bool({expression}))"), 20)
    message = kernel.get_message("iopub")
    kernel.await_idle(None, 0)
    return message["content"].get("data") == {"text/plain": "true"}
