"""A guest of a hundred bytes that writes memory at an even pace: the firmware image that `vlib.real.qemu` starts."""

import ctypes
import functools
import mmap
import struct
import time

PAGE = 4096
BASE = 2**20  # the guest's data begin here; the first MiB is left to the board
PATTERNS = ("uniform", "sequential")

IMAGE = 0x10000  # bytes
HIGH = 2**32 - IMAGE  # where the image lies; the processor starts 16 bytes before its end, in real mode
PROTECTED = 0x40  # offsets in the image
GDT = 0x100


def firmware(filled_pages: int, working_set_pages: int, period: int, pattern: str = "uniform") -> bytes:
    """Return the image of a guest that fills memory and then writes a dword every `period` cycles.

    After filling (a one into the second dword of each page) it stores the number of each write, from 1 on, into the
    first dword of a page: so memory tells how many there were. The first write goes to the first page of the working
    set, whatever the `pattern`. `period` is in cycles of the time-stamp counter.

    >>> image = firmware(16384, 64, 1_000_000)
    >>> len(image), image[0xFFF0:0xFFF3].hex()
    (65536, 'e90d00')
    """
    real = (
        b"\xfa"  # cli
        + (b"\x66\x2e\x0f\x01\x16" + struct.pack("<H", GDT))  # lgdt cs:[GDT]
        + b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"  # cr0 |= 1: protected mode
        + (b"\x66\xea" + struct.pack("<IH", HIGH + PROTECTED, 8))  # jmp 8:PROTECTED
    )
    fill = (
        b"\x66\xb8\x10\x00\x8e\xd8\x8e\xc0\x8e\xd0"  # ds = es = ss = 16
        + (b"\xbf" + struct.pack("<I", BASE))  # edi = BASE
        + (b"\xb9" + struct.pack("<I", filled_pages))  # ecx
        + b"\xe3\x10"  # jecxz over the loop
        + (b"\xc7\x47\x04" + struct.pack("<I", 1))  # loop: dword [edi + 4] = 1
        + (b"\x81\xc7" + struct.pack("<I", PAGE))  # edi += 4096
        + b"\x49\x75\xf0"  # dec ecx; jnz loop
        + b"\x0f\x31\x89\xc6\x89\xd7"  # edi:esi = time of the first write: now
        + b"\x31\xdb\x31\xed"  # ebx = ebp = 0
    )
    wait = (
        b"\x0f\x31\x29\xf0\x19\xfa\x78\xf8"  # rdtsc; subtract edi:esi; js back to rdtsc
        b"\x43"  # inc ebx: the number of this write
    )
    if pattern == "uniform":
        page = (
            (b"\x89\xe8\xb9" + struct.pack("<I", working_set_pages) + b"\xf7\xe1")  # edx = ebp * pages / 2**32
            + (b"\x69\xed" + struct.pack("<I", 1664525))  # the next random number: ebp *= ...
            + (b"\x81\xc5" + struct.pack("<I", 1013904223))  # ... and ebp += ...
        )
    else:
        page = (
            b"\x89\xea\x45"  # edx = ebp; inc ebp
            + (b"\x81\xfd" + struct.pack("<I", working_set_pages) + b"\x75\x02\x31\xed")  # at the end back to 0
        )
    write = (
        (b"\xc1\xe2\x0c\x89\x9a" + struct.pack("<I", BASE))  # dword [edx * 4096 + BASE] = ebx
        # A write that is late does not make the next one late: the pace is kept in the long run.
        + (b"\x81\xc6" + struct.pack("<I", period % 2**32))  # edi:esi += period
        + (b"\x81\xd7" + struct.pack("<I", period // 2**32))
    )
    loop = wait + page + write
    loop += b"\xeb" + struct.pack("<b", -len(loop) - 2)  # jmp to its beginning

    image = bytearray(IMAGE)
    flat = struct.pack("<QQQ", 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF)  # nothing, code (8), data (16)
    for offset, part in (
        *((0, real), (PROTECTED, fill + loop)),
        *((GDT, struct.pack("<HI", len(flat) - 1, HIGH + GDT + 8)), (GDT + 8, flat)),
        (IMAGE - 16, b"\xe9\x0d\x00"),  # jmp to the beginning of the image
    ):
        image[offset : offset + len(part)] = part
    return bytes(image)


@functools.cache
def cycles_per_second() -> int:
    """Return how fast this processor's time-stamp counter runs (x86-64 only); QEMU's guest reads the same one."""
    code = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def both():  # of several readings the one between two looks at the clock that lie closest together
        looks = [(time.monotonic_ns(), read(), time.monotonic_ns()) for _ in range(20)]
        before, cycles, after = min(looks, key=lambda look: look[2] - look[0])
        return (before + after) / 2, cycles

    time_1, cycles_1 = both()
    time.sleep(0.2)
    time_2, cycles_2 = both()
    return round((cycles_2 - cycles_1) * 1e9 / (time_2 - time_1))
