"""Fork kernels that share nothing: one process with the imports done, and namespaces of its own for each fork.

It runs inside the outer sandbox. Over a control socket come a byte and two descriptors for each kernel: the socket
that the kernel speaks on, and a leash, whose other end the marker holds: when the leash is let go (or the marker
dies), the kernel and all that it started is killed. Linux only.
"""

import contextlib
import ctypes
import functools
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path

from . import seccomp

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, READONLY, REC, PRIVATE = 2, 4, 1, 0x4000, 0x40000
NO_NEW_PRIVS, CAPBSET_DROP, SUBREAPER, DUMPABLE = 38, 24, 36, 4  # prctl
NOBODY = 65534
MEMORY_EVERY = 0.1  # seconds between two looks at what the kernels use

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    """Call a function of the C library; raise OSError where it fails."""
    if getattr(libc, name)(*args) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def drop_root():
    """Become nobody for good, if this is root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        call("prctl", DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's, and no user map can be written
    call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)


def serve(control: socket.socket, limits: dict):
    """Fork a kernel for each request, watch what it uses, and kill it when its leash is let go."""
    kernels = {}  # leash → pid
    own = _memory(os.getpid())
    looked = 0.0
    while True:
        ready, _, _ = select.select([control, *kernels], [], [], MEMORY_EVERY if kernels else None)
        for leash in (fd for fd in ready if fd in kernels):
            _kill(kernels.pop(leash), leash)
        if control in ready:
            data, fds, _, _ = socket.recv_fds(control, 1, 2)
            if not data:
                return  # the marker is gone; so are we, and with us all that is in this sandbox
            channel, leash = fds
            foreign = [control.fileno(), *kernels, leash]
            kernels[leash] = spawn(functools.partial(_kernel, channel), limits, foreign)
            os.close(channel)
        if kernels and time.monotonic() - looked > MEMORY_EVERY:
            looked = time.monotonic()
            used = _usage(own)
            for leash, pid in list(kernels.items()):
                if used.get(pid, 0) > limits["memory"] or _ended(pid):
                    _kill(kernels.pop(leash), leash)


def _ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(pid, leash):
    os.close(leash)
    os.kill(pid, signal.SIGKILL)  # ours and not yet waited for, so the number is still its
    os.waitpid(pid, 0)


def _memory(pid):
    """Return the bytes of memory of a process that no file on a disk stands behind."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _usage(own):
    """Return for each child its memory with that of all it started, beyond what a fork of us begins with."""
    parent, memory = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                pid = int(entry)
                parent[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                memory[pid] = max(0, _memory(pid) - own)
    total = {}
    for pid, used in memory.items():
        top = pid
        while parent.get(top, 0) not in (0, os.getpid()):
            top = parent[top]
        total[top] = total.get(top, 0) + used
    return total


def spawn(work, limits: dict, foreign=()) -> int:
    """Run `work` in a confined fork with namespaces of its own and return its pid; this process adopts it.

    `foreign` names descriptors that are none of its business.
    """
    call("prctl", SUBREAPER, 1, 0, 0, 0)
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        status = 1
        try:
            os.close(read)
            uid, gid = os.getuid(), os.getgid()
            call("unshare", NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS)
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                Path(f"/proc/self/{name}").write_text(text)
            pid = os.fork()
            if pid == 0:
                os.setsid()  # a signal to "my group" crosses namespaces, and must not reach this server
                for fd in (*foreign, write):
                    os.close(fd)
                confine(limits)
                work()
            os.write(write, str(pid).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        pid = pipe.read()
    os.waitpid(middle, 0)
    if not pid:
        raise OSError("no namespaces for a kernel")
    return int(pid)


def _kernel(channel):
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    from .runner import serve

    with socket.socket(fileno=channel) as sock:
        serve(sock.makefile("rb"), sock.makefile("wb"))


def confine(limits: dict):
    """Leave this process its own empty folders, no view of other processes, no privileges, and its limits."""
    call("mount", b"none", b"/", None, REC | PRIVATE, None)
    half = f"size={limits['disk'] // 2},nr_inodes=4096,mode=0700".encode()
    for folder in (os.fsencode(os.environ["HOME"]), b"/dev/shm"):
        call("mount", b"tmpfs", folder, b"tmpfs", NOSUID | NODEV, half)
    call("mount", b"tmpfs", b"/dev/pts", b"tmpfs", NOSUID | NODEV | READONLY, b"size=4096")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")  # no way to new privileges in a new namespace
    call("mount", b"tmpfs", b"/proc", b"tmpfs", NOSUID | NODEV | READONLY, b"size=4096")
    os.chdir(os.environ["HOME"])
    for what, value in (
        (resource.RLIMIT_AS, limits["memory"] + 2**31),  # what is mapped but not used is no harm
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_FSIZE, limits["disk"] // 2),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (value, value))
    for capability in range(64):
        with contextlib.suppress(OSError):
            call("prctl", CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
    seccomp.deny(call)


def main():
    """Serve on the descriptor that the command line names, after dropping root and importing what the lab does."""
    drop_root()
    options = json.loads(sys.argv[1])
    for module in ("numpy", "numpy.random", "json", "traceback", "linecache", *options["modules"]):
        with contextlib.suppress(ImportError):
            __import__(module)
    from . import runner, show  # noqa: F401 - imported before the forks

    with socket.socket(fileno=options["control"]) as control:
        serve(control, options["limits"])


if __name__ == "__main__":
    main()
