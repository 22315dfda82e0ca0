"""Take from a process the system calls that no answer needs: ways to privileges, and to memory that no limit counts."""

import ctypes
import platform

# name → its number on x86-64 and on 64-bit ARM (Linux, unistd.h)
DENIED = {
    "memfd_create": (319, 279),  # files in memory, which neither the disk's limit nor that of memory sees
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),  # these two take memory of the system that counts for no process
    "msgget": (68, 186),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "ptrace": (101, 117),
    "keyctl": (250, 219),  # keyrings are a way from one submission to the next
    "add_key": (248, 217),
    "request_key": (249, 218),
    "setsid": (112, 157),  # Linux shares processors out by sessions: a kernel has one share, whatever it starts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, and the audit number
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # the latter: EPERM
SET_SECCOMP, FILTER = 22, 2


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def deny(call):
    """Install the filter with `call`, which runs a C function; on a machine of another kind do nothing."""
    if platform.machine() not in ARCHITECTURES:
        return
    column, architecture = ARCHITECTURES[platform.machine()]
    numbers = [pair[column] for pair in DENIED.values()]
    # Another architecture's calls (32 bits) have other numbers, and so have those of x32: refuse them all.
    code = [(LOAD, 0, 0, 4), (EQUAL, 0, len(numbers) + 3, architecture), (LOAD, 0, 0, 0)]
    code.append((AT_LEAST, len(numbers) + 1, 0, 0x40000000))
    code += [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    array = (_Instruction * len(code))(*code)
    call("prctl", SET_SECCOMP, FILTER, ctypes.byref(_Program(len(code), array)), 0, 0)
