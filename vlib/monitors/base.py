"""What all monitors share: the host they run on, the guest's virtual processor, and the trace of exits.

A guest has a slice of the host's memory as its own, from guest-physical address 0. `v`, its virtual processor, holds what
the guest believes, and can do one instruction just as the guest's own machine would: that is how a monitor emulates.
Virtual time goes by guest instructions; what the monitor does between them takes none, and is priced by `vlib.costs`.
So a guest that runs rightly ends in the very state, to the cycle, that it reaches on the bare machine.
"""

from collections import Counter
from typing import NamedTuple

from vlib.guests import Guest
from vlib.x86 import CPU, Board, Memory
from vlib.x86.memory import PAGE


class Exit(NamedTuple):
    """One time the monitor had to act: guest instructions done before it, where, why, and the guest's clock in cycles."""

    step: int
    eip: int
    reason: str
    cycles: int


class Host:
    """A machine for monitors: one real processor, and memory that is handed out in pages.

    >>> host = Host(8 * 4096)
    >>> host.take(5000), host.take(4096)
    (0, 8192)
    >>> host.take(1 << 20)
    Traceback (most recent call last):
    ValueError: 1048576 bytes of host memory wanted, allowed: up to 20480, which are left
    """

    def __init__(self, size: int = 8 << 20):
        self.memory = Memory(size)
        self.cpu, self.used = CPU(self.memory, Board()), 0

    def take(self, size: int) -> int:
        """Return the address of whole pages that nobody else has."""
        size = -(-size // PAGE) * PAGE
        if not 0 < size <= self.memory.size - self.used:
            left = self.memory.size - self.used
            raise ValueError(f"{size} bytes of host memory wanted, allowed: up to {left}, which are left")
        self.used += size
        return self.used - size


class Monitor:
    """A guest under a monitor; the five differ in `enter`, which runs the guest up to its next exit."""

    interrupt_exits = True  # whether an interrupt that the guest gets is an entry of the trace by itself

    def __init__(self, guest: Guest, host: Host | None = None):
        self.guest, self.host, self.exits = guest, host or Host(), []
        self.base = self.host.take(guest.memory)
        self.host.memory.load(self.base + guest.program.origin, guest.program.code)
        self.v = CPU(self.host.memory, Board())
        self.v.paging.nested = self.place
        self.v.eip = guest.program.origin

    def place(self, page: int) -> int:
        """Return where in the host a guest-physical page lies; what the guest does not have lies nowhere."""
        return self.base + page if page < self.guest.memory else self.host.memory.size

    def enter(self, limit: int):
        """Run the guest for up to `limit` instructions, up to and including what its next exit needs."""
        raise NotImplementedError

    def poll(self) -> bool:
        """Deliver a virtual interrupt that is due, as the guest's own processor would; return whether there is a way on."""
        return self.v.poll()

    def note(self, reason: str):
        """Add an exit to the trace."""
        self.exits.append(Exit(self.v.steps, self.v.eip, reason, self.v.cycles))

    def run(self, limit: int = 1_000_000) -> str:
        """Run the guest for up to `limit` steps; return "limit", "halt" or "shutdown" as `CPU.run` does."""
        v, end = self.v, self.v.steps + limit
        while v.steps < end:
            busy, at = v.board.in_service, v.eip
            going = self.poll()
            if v.board.in_service and not busy and self.interrupt_exits:
                self.exits.append(Exit(v.steps, at, "interrupt", v.cycles))
            if not going:
                return "shutdown" if v.shut_down else "halt"
            # with an interrupt held back for one instruction (after STI or a new SS), one it is
            self.enter(1 if v.flags & 0x200 and v.board.interrupting() else end - v.steps)
        return "shutdown" if v.shut_down else "limit"

    @property
    def console(self) -> str:
        """What the guest printed."""
        return self.v.board.console.decode("latin-1")

    def state(self) -> dict:
        """Return all that the guest can see: processor, devices, memory."""
        return {**self.v.save(), "memory": self.host.memory.copy(self.base, self.guest.memory)}

    def counts(self) -> Counter:
        """Return how often each reason occurs in the trace."""
        return Counter(exit.reason for exit in self.exits)


class Difference(NamedTuple):
    """Where a guest under a monitor first is not what it is elsewhere: guest steps done, EIP before, {name: (here, there)}."""

    step: int
    eip: int
    fields: dict


def first_difference(one: Monitor, other: Monitor, limit: int = 100_000) -> Difference | None:
    """Run two monitors step by step; return where what their guests see first differs, None if nowhere.

    Registers and console are compared at each step, memory at the end only.

    >>> from vlib.guests import guest
    >>> from vlib.monitors import Native, TrapAndEmulate
    >>> found = first_difference(TrapAndEmulate(guest("popf")), Native(guest("popf")))
    >>> print(found.fields, guest("popf").program.where(found.eip).split(" ;")[0].strip())
    {'flags': (2, 514)} line 33: popfd
    """
    for step in range(limit):
        eip = one.v.eip
        ends = one.run(1), other.run(1)
        states = [{**monitor.v.save(), "console": monitor.console} for monitor in (one, other)]
        fields = {n: (states[0][n], states[1][n]) for n in states[0] if states[0][n] != states[1][n] and n != "board"}
        if fields:
            return Difference(step, eip, fields)
        if ends != ("limit", "limit"):
            break
    a, b = one.state()["memory"], other.state()["memory"]
    return None if a == b else Difference(step, one.v.eip, {"memory": (a, b)})


def side_by_side(monitors: list[Monitor], slice_: int = 500, limit: int = 1_000_000) -> list[str]:
    """Run guests in turn, `slice_` steps each, until all are at rest; return how each ended.

    A guest that is shut down by a triple fault is one guest less to run. Raises ValueError for a slice below 1.
    """
    if slice_ < 1:
        raise ValueError(f"slice of {slice_} steps, allowed: at least 1")
    ends = ["limit"] * len(monitors)
    for _ in range(-(-limit // slice_)):
        for i, monitor in enumerate(monitors):
            if ends[i] == "limit":
                ends[i] = monitor.run(slice_)
    return ends
