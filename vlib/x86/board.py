"""What is around the processor: a console, a timer and an interrupt controller, on the ports of a PC.

Port 0xe9 takes the characters of the console (as in Bochs and QEMU). Ports 0x40 and 0x43 are channel 0 of the 8254 timer
in mode 2 (low byte, then high byte of the period); ports 0x20 and 0x21 are the 8259 controller, of which only the timer's
line 0 is connected. Enough for a kernel that also boots on a real PC; everything else reads as ones.
"""

CYCLES_PER_TICK = 16  # of the processor, to one of the timer
NEVER = 1 << 62


class Board:
    """The devices of one machine. All times are cycles of its processor.

    >>> board = Board()
    >>> for letter in b"ok":
    ...     board.output(0xE9, 1, letter, now=0)
    >>> board.console.decode()
    'ok'
    """

    def __init__(self):
        self.console = bytearray()
        self.period, self.low, self.deadline = 0, None, NEVER
        self.vector, self.mask, self.setup = 8, 0xFF, 0  # first vector, masked lines, words of set-up still to come
        self.requested = self.in_service = False

    def advance(self, now: int):
        """Let the timer run up to a cycle."""
        if now >= self.deadline:
            self.requested = True
            self.deadline += ((now - self.deadline) // self.period + 1) * self.period

    def interrupting(self) -> bool:
        """Return whether the controller asks the processor for an interrupt."""
        return self.requested and not self.in_service and not self.mask & 1

    def acknowledge(self) -> int:
        """Give the processor the vector."""
        self.requested, self.in_service = False, True
        return self.vector

    def output(self, port: int, size: int, value: int, now: int):
        """Take what the processor writes to a port; of more than a byte, each goes to the next port."""
        for i in range(size):
            self._output(port + i, value >> 8 * i & 0xFF, now)

    def _output(self, port, value, now):
        if port == 0xE9:
            self.console.append(value)
        elif port == 0x43:
            self.low, self.deadline = None, NEVER
        elif port == 0x40:
            if self.low is None:
                self.low = value
            else:
                self.period = ((self.low | value << 8) or 0x10000) * CYCLES_PER_TICK
                self.low, self.deadline = None, now + self.period
        elif port == 0x20 and value & 0x10:  # the first word of a set-up; the vector, the wiring and the mode follow
            self.setup, self.mask, self.in_service = 3, 0, False
        elif port == 0x20 and value & 0x20:  # end of interrupt
            self.in_service = False
        elif port == 0x21 and self.setup:
            if self.setup == 3:
                self.vector = value & 0xF8
            self.setup -= 1
        elif port == 0x21:
            self.mask = value

    def input(self, port: int, size: int, now: int) -> int:
        """Return what the processor reads from a port."""
        return sum((self.mask if port + i == 0x21 else 0xFF) << 8 * i for i in range(size))

    def save(self) -> dict:
        """Return the state as plain data."""
        return {**vars(self), "console": bytes(self.console)}

    def restore(self, state: dict):
        """Take a state that `save` gave."""
        vars(self).update(state, console=bytearray(state["console"]))
