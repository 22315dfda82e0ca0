"""Validation of a paravirtual guest's page tables: the real processor walks them, so a guest must not write them itself.

The rule [Xen03, Section 3.3.3]: a page that is part of a page table is never mapped writable, and a table names only pages of the
guest. Xen keeps a type and a count for each page to decide that in constant time; here all tables in use are looked at
again, which is slower and easier to believe.
"""

import struct
from collections.abc import Iterator

from vlib.x86.memory import LARGE, PAGE, PRESENT, WRITABLE, Memory


class Refused(ValueError):
    """A page table, or an update of one, that would break the rule."""


class PageTypes:
    """The page tables of one guest, whose pages are those from `first` up to `end`; `own` is the monitor's directory entry.

    >>> memory = Memory(4 * 4096)
    >>> types = PageTypes(memory, 0, 3 * 4096, own=0)
    >>> memory.write(0, 0x1003, 4), memory.write(0x1000, 0x2003, 4)  # a directory, and a table that maps the third page
    (None, None)
    >>> types.pin(0)
    >>> types.update([(0x1004, 0x0003)])
    Traceback (most recent call last):
    vlib.monitors.page_types.Refused: entry 0x1004: 0x0 is a page table, and would be writable
    >>> types.update([(0x1004, 0x0001), (0x1008, 0x2003)])
    """

    def __init__(self, memory: Memory, first: int, end: int, own: int):
        self.memory, self.first, self.end, self.own = memory, first, end, own
        self.roots, self.tables = set(), set()

    def _entries(self, table: int) -> Iterator[tuple[int, int]]:
        for i, (entry,) in enumerate(struct.iter_unpack("<I", self.memory.copy(table, PAGE))):
            if entry & PRESENT:
                page = entry & -PAGE
                if not self.first <= page < self.end:
                    raise Refused(f"entry {table + 4 * i:#x}: {page:#x} is not a page of this guest")
                yield table + 4 * i, entry

    def _directory(self, root: int) -> dict[int, int]:
        """Return where a directory's entries lie, and what they name."""
        last = root + PAGE - 4
        if self.memory.read(last, 4) != self.own:
            raise Refused(f"entry {last:#x}: the last one is the monitor's")
        self.memory.write(last, 0, 4)
        try:
            entries = dict(self._entries(root))
        finally:
            self.memory.write(last, self.own, 4)
        for place, entry in entries.items():
            if entry & LARGE:
                raise Refused(f"entry {place:#x}: large pages are not allowed")
        return entries

    def check(self):
        """Raise `Refused` unless all tables in use obey the rule."""
        directories = {root: self._directory(root) for root in self.roots}
        tables = {entry & -PAGE for entries in directories.values() for entry in entries.values()}
        for place in tables & set(directories):
            raise Refused(f"{place:#x} is a directory, and would be a table too")
        for table in tables:
            for place, entry in self._entries(table):
                if entry & WRITABLE and entry & -PAGE in tables | set(directories):
                    raise Refused(f"entry {place:#x}: {entry & -PAGE:#x} is a page table, and would be writable")
        self.tables = tables | set(directories)

    def pin(self, root: int):
        """Take a directory into use; raises `Refused`, and then nothing has changed."""
        if root % PAGE or not self.first <= root < self.end:
            raise Refused(f"directory at {root:#x}: not a page of this guest")
        if root in self.roots:
            return
        last = root + PAGE - 4
        before = self.memory.read(last, 4)
        if before & PRESENT:
            raise Refused(f"entry {last:#x}: the last one is the monitor's")
        self.memory.write(last, self.own, 4)
        self.roots.add(root)
        try:
            self.check()
        except Refused:
            self.roots.discard(root)
            self.memory.write(last, before, 4)
            raise

    def update(self, batch: list[tuple[int, int]]):
        """Write entries, given as (address, value); raises `Refused`, and then none of the batch is written."""
        done = []
        try:
            for place, value in batch:
                if place % 4 or place & -PAGE not in self.tables:
                    raise Refused(f"entry {place:#x}: not in a page table")
                done.append((place, self.memory.read(place, 4)))
                self.memory.write(place, value, 4)
            self.check()
        except Refused:
            for place, value in reversed(done):
                self.memory.write(place, value, 4)
            raise
