"""Segment descriptors: eight bytes of a table, and what the processor keeps of them in a segment register."""

from typing import NamedTuple

CODE, DATA_OR_CODE = 8, 16  # bits of the type
TSS_AVAILABLE, TSS_BUSY, LDT, INTERRUPT_GATE, TRAP_GATE = 9, 11, 2, 14, 15
SYSTEM = {TSS_AVAILABLE: "available TSS", TSS_BUSY: "busy TSS", LDT: "LDT", INTERRUPT_GATE: "gate", TRAP_GATE: "gate"}


class Descriptor(NamedTuple):
    """A segment: base, limit in bytes, the access byte (present, DPL, type) and the flags (granularity, size).

    >>> Descriptor.parse(0x00CF9A000000FFFF)
    Descriptor(base=0, limit=4294967295, access=154, flags=12)
    >>> hex(Descriptor(0, 0xFFFFFFFF, 0x9A, 0xC).pack())
    '0xcf9a000000ffff'
    """

    base: int
    limit: int
    access: int
    flags: int

    @classmethod
    def parse(cls, raw: int):
        """Take a descriptor apart, given as the 64-bit number in the table."""
        limit, flags = raw & 0xFFFF | raw >> 32 & 0xF0000, raw >> 52 & 15
        return cls(
            raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000,
            limit << 12 | 0xFFF if flags & 8 else limit,
            raw >> 40 & 0xFF,
            flags,
        )

    def pack(self) -> int:
        """Return the 64-bit number."""
        limit = self.limit >> 12 if self.flags & 8 else self.limit
        if not 0 <= limit <= 0xFFFFF or not 0 <= self.base < 1 << 32:
            raise ValueError(
                f"segment of base {self.base:#x} and limit {self.limit:#x}, allowed: 32 and 20 bits (flag 8: pages)"
            )
        return (
            limit & 0xFFFF | (limit & 0xF0000) << 32 | (self.base & 0xFFFFFF) << 16 | (self.base >> 24) << 56
            | self.access << 40 | self.flags << 52
        )  # fmt: skip

    @property
    def present(self) -> bool:
        """Whether the P bit is set."""
        return bool(self.access & 0x80)

    @property
    def dpl(self) -> int:
        """The privilege level of the descriptor."""
        return self.access >> 5 & 3

    @property
    def system(self) -> bool:
        """Whether this is a gate, a TSS or an LDT instead of code or data."""
        return not self.access & DATA_OR_CODE

    @property
    def code(self) -> bool:
        """Whether this is a code segment."""
        return self.access & (DATA_OR_CODE | CODE) == DATA_OR_CODE | CODE

    @property
    def conforming(self) -> bool:
        """Whether this is code that runs at its caller's level."""
        return self.code and bool(self.access & 4)

    @property
    def readable(self) -> bool:
        """Whether data can be read."""
        return not self.system and (not self.code or bool(self.access & 2))

    @property
    def writable(self) -> bool:
        """Whether data can be written."""
        return not self.system and not self.code and bool(self.access & 2)


class Segment:
    """A segment register: the selector, the descriptor as it was when loaded, and the offsets that it allows.

    Whatever happens to the table later, the register keeps what it has: a monitor cannot read it back from there.

    >>> readonly = Segment(0x33, Descriptor(0x2000, 0x7FF, 0xF1, 4))
    >>> readonly.read_end, readonly.write_end
    (2048, 0)
    """

    __slots__ = ("base", "descriptor", "first", "read_end", "selector", "write_end")

    def __init__(self, selector: int, descriptor: Descriptor | None):
        """Keep a descriptor; None is the null segment, which allows nothing."""
        self.selector, self.descriptor = selector, descriptor or Descriptor(0, 0, 0, 0)
        base, limit, access, flags = self.descriptor
        down = access & 0x1C == 0x14  # data that grows down: the limit is below what is allowed
        self.base, self.first = base, limit + 1 if down else 0
        end = (1 << 32 if flags & 4 else 1 << 16) if down else limit + 1
        self.read_end = end if descriptor and self.descriptor.readable else 0
        self.write_end = end if descriptor and self.descriptor.writable else 0
