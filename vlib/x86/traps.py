"""The one exception of the processor: what takes it out of a program."""

MASK = 0xFFFFFFFF
DE, DB, BP, OVERFLOW, UD, DF, TSS, NP, STACK, GP, PF = 0, 1, 3, 4, 6, 8, 10, 11, 12, 13, 14  # vectors
NAMES = {
    0: "#DE",
    1: "#DB",
    3: "#BP",
    4: "#OF",
    6: "#UD",
    8: "#DF",
    10: "#TS",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
}


class Trap(Exception):
    """An exception or INT n, before anything was done about it; the state is that before the instruction.

    `vector` and `error` (None: no error code) are what the guest's handler gets, `address` the linear address of a page
    fault, `software` says that it came of INT n, `eip` is the instruction and `next` where a handler returns to.

    >>> str(Trap(GP, 0x10))
    '#GP(0x10)'
    """

    def __init__(self, vector: int, error: int | None = None, address: int | None = None, software: bool = False):
        super().__init__(NAMES.get(vector, f"vector {vector}") + ("" if error is None else f"({error:#x})"))
        self.vector, self.error, self.address, self.software = vector, error, address, software
        self.eip = self.next = 0
