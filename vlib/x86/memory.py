"""Physical memory, and the unit that translates linear addresses to it: two-level paging with a TLB."""

from collections.abc import Callable

PAGE = 4096
ADDRESSES = 1 << 32
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE = (
    1,
    2,
    4,
    32,
    64,
    128,
)  # bits of an entry; the first three of an error code
NOWHERE = -1


class PageFault(Exception):
    """A linear address without a translation: `address`, and `error` as the processor pushes it."""

    def __init__(self, address: int, error: int):
        super().__init__(f"page fault at {address:#x}, error {error}")
        self.address, self.error = address, error


class Memory:
    """Physical memory of whole pages; every access goes through `read` and `write`.

    As on a PC's bus, what is not there reads as ones and takes no writes. `watch` tells of writes to a page: a
    processor drops the instructions that it decoded there.

    >>> memory = Memory(4096)
    >>> memory.write(16, 0x1234, 2)
    >>> hex(memory.read(16, 4)), hex(memory.read(4094, 4))
    ('0x1234', '0xffff0000')
    """

    def __init__(self, size: int):
        if size <= 0 or size % PAGE or size > ADDRESSES:
            raise ValueError(f"memory of {size} bytes, allowed: whole pages of {PAGE}, at most {ADDRESSES}")
        self.size, self.bytes, self.watchers = size, bytearray(size), {}

    def read(self, address: int, size: int) -> int:
        """Return `size` bytes as an unsigned number."""
        if 0 <= address <= self.size - size:
            return int.from_bytes(self.bytes[address : address + size], "little")
        return sum(
            (self.bytes[a] if 0 <= a < self.size else 0xFF) << 8 * i
            for i, a in enumerate(range(address, address + size))
        )

    def write(self, address: int, value: int, size: int):
        """Set `size` bytes."""
        for a in range(address, address + size):
            if 0 <= a < self.size:
                self.bytes[a] = value & 0xFF
            value >>= 8
        for page in {address & -PAGE, address + size - 1 & -PAGE}:
            if page in self.watchers:
                self.notify(page)

    def copy(self, address: int, size: int) -> bytes:
        """Return `size` bytes as they lie there."""
        if 0 <= address <= self.size - size:
            return bytes(self.bytes[address : address + size])
        return self.read(address, size).to_bytes(size, "little")

    def load(self, address: int, data: bytes):
        """Put a program or a page in; raises ValueError if it does not fit."""
        if not 0 <= address <= self.size - len(data):
            raise ValueError(f"{len(data)} bytes at {address:#x}, allowed: within {self.size} bytes of memory")
        self.bytes[address : address + len(data)] = data
        for page in range(address & -PAGE, address + len(data), PAGE):
            if page in self.watchers:
                self.notify(page)

    def watch(self, page: int, notify: Callable[[int], None]):
        """Call `notify(page)` at the next write to the page at this address, once."""
        self.watchers.setdefault(page, []).append(notify)

    def notify(self, page: int):
        """Tell those who watch a page that it was written."""
        for notify in self.watchers.pop(page):
            notify(page)


class Paging:
    """Linear to physical: the walk through page directory and page table, and a TLB of its results.

    With `nested`, a function from guest-physical to host-physical page addresses, the tables and what they name are
    the guest's, and every reference is translated once more. `references` counts the table entries that were read.
    """

    def __init__(self, memory: Memory):
        self.memory, self.nested = memory, None
        self.enabled, self.root, self.write_protect, self.large = False, 0, False, False
        self.references, self.walks = 0, 0
        self.tlb = ({}, {}, {}, {})  # linear page number -> physical page address; index: 2 * user + write

    def flush(self):
        """Forget all translations; the dictionaries stay the same objects."""
        for translations in self.tlb:
            translations.clear()

    def flush_page(self, linear: int):
        """Forget one translation."""
        for translations in self.tlb:
            translations.pop(linear >> 12, None)

    def _host(self, page: int) -> int:
        return page if self.nested is None else self.nested(page)

    def _entry(self, address: int) -> tuple[int, int]:
        self.references += 1
        place = self._host(address & -PAGE) + (address & PAGE - 1)
        return place, self.memory.read(place, 4)

    def translate(self, linear: int, user: bool, write: bool) -> int:
        """Return the physical address of the page that holds a linear address, or raise `PageFault`.

        >>> memory = Memory(3 * 4096)
        >>> memory.write(0, 0x1007, 4), memory.write(0x1000 + 4 * 5, 0x2005, 4)
        (None, None)
        >>> paging = Paging(memory)
        >>> paging.enabled = True
        >>> hex(paging.translate(0x5ABC, user=True, write=False))
        '0x2000'
        >>> paging.translate(0x5ABC, user=True, write=True)
        Traceback (most recent call last):
        vlib.x86.memory.PageFault: page fault at 0x5abc, error 7
        """
        page = self._host(self._walk(linear, user, write) if self.enabled else linear & -PAGE)
        if page + PAGE <= self.memory.size:  # what is not there stays out of the TLB, so that a hit needs no check
            self.tlb[2 * user + write][linear >> 12] = page
        return page

    def _walk(self, linear: int, user: bool, write: bool) -> int:
        self.walks += 1
        code = WRITABLE * write | USER * user
        directory, entry = self._entry(self.root + (linear >> 22) * 4)
        if not entry & PRESENT:
            raise PageFault(linear, code)
        allowed, table, last = entry, None, entry
        if not (self.large and entry & LARGE):
            table, last = self._entry((entry & -PAGE) + (linear >> 12 & 0x3FF) * 4)
            if not last & PRESENT:
                raise PageFault(linear, code)
            allowed &= last
        if (user and not allowed & USER) or (write and not allowed & WRITABLE and (user or self.write_protect)):
            raise PageFault(linear, code | PRESENT)
        mark = ACCESSED | DIRTY * write
        if table is None:
            self._mark(directory, entry, mark)
            return entry & 0xFFC00000 | linear & 0x3FF000
        self._mark(directory, entry, ACCESSED)
        self._mark(table, last, mark)
        return last & -PAGE

    def _mark(self, place: int, entry: int, bits: int):
        if entry & bits != bits:
            self.memory.write(place, entry | bits, 4)
