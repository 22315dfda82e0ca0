"""The machine ⟨E, M, P, R⟩ of Popek and Goldberg's theorems, a classifier of its instructions, and a monitor for it.

E is the storage, M the mode, P the program counter, R the relocation (base, bound). A real machine has more state that a
VMM must keep for itself (descriptor tables, control registers, IF, IOPL); here one `flag` stands for all of it. An
instruction set is a tuple of `Instruction`s: what each one reads, what it writes, and what it does in user mode. So whole
families of instruction sets can be generated, and every claim of the theorems is checked by running them [PG74].
"""

from itertools import product
from typing import NamedTuple

USER, SUPERVISOR = 0, 1
PRIVILEGED, MEMORY, ILLEGAL = 1, 2, 3  # causes of a trap
WORDS = 64  # an instruction is stored as opcode * WORDS + address
OLD, CAUSE, NEW = 0, 5, 6  # where a trap leaves the old PSW and its cause, and where it finds the new PSW
OWNED = ("mode", "base", "bound", "flag")  # what a VMM must own

SOURCES = ("address", "memory", "increment", *OWNED)
TARGETS = ("memory", "pc", *OWNED, "psw")
IN_USER_MODE = ("same", "trap", "ignore")  # "ignore": done without the write, like popf


class Trap(Exception):
    """An instruction that could not be completed; the one argument is the cause."""


class PSW(NamedTuple):
    """The program status word: everything but the storage."""

    mode: int = SUPERVISOR
    pc: int = 0
    base: int = 0
    bound: int = WORDS
    flag: int = 0


class Instruction(NamedTuple):
    """An instruction: write `source` to `target`; `user` says what happens in user mode.

    >>> Instruction("memory", "psw", "trap")  # load PSW, privileged
    Instruction(source='memory', target='psw', user='trap')
    """

    source: str
    target: str
    user: str = "same"


def _psw(words) -> PSW:
    mode, pc, base, bound, flag = words
    return PSW(mode & 1, pc, base, bound, flag & 1)


class Machine:
    """The bare machine: its storage, its instruction set and its PSW."""

    def __init__(self, instructions, storage):
        self.instructions, self.storage, self.psw = tuple(instructions), list(storage), PSW(bound=len(storage))
        self.size = len(self.storage)

    def read(self, place: int) -> int:
        """Return the word at an absolute place."""
        return self.storage[place]

    def write(self, place: int, word: int):
        """Set the word at an absolute place."""
        self.storage[place] = word

    def load(self, psw: PSW):
        """Take a new PSW."""
        self.psw = psw

    resume = load

    def attempt(self):
        """Execute one instruction, or raise `Trap` and change nothing."""
        execute(self, *fetch(self))


def locate(machine, address: int) -> int:
    """Return the absolute place of an address, or raise the memory trap."""
    place = machine.psw.base + address
    if not (0 <= address < machine.psw.bound and 0 <= place < machine.size):
        raise Trap(MEMORY)
    return place


def fetch(machine) -> tuple[Instruction, int]:
    """Return the instruction at the program counter, and its address field."""
    opcode, address = divmod(machine.read(locate(machine, machine.psw.pc)), WORDS)
    if not 0 <= opcode < len(machine.instructions):
        raise Trap(ILLEGAL)
    return machine.instructions[opcode], address


def execute(machine, instruction: Instruction, address: int):
    """Carry out one instruction on anything that looks like a machine."""
    source, target, user = instruction
    psw = machine.psw
    if psw.mode == USER and user == "trap":
        raise Trap(PRIVILEGED)
    after = psw._replace(pc=psw.pc + 1)
    if target == "psw":
        after = _psw([machine.read(locate(machine, address + i)) for i in range(5)])
    else:
        if source == "address":
            value = address
        elif source in OWNED:
            value = getattr(psw, source)
        else:
            value = machine.read(locate(machine, address)) + (source == "increment")
        if target == "memory":
            place = locate(machine, address)
        else:
            after = after._replace(**{target: value & 1 if target in ("mode", "flag") else value})
    if psw.mode == USER and user == "ignore":
        after = psw._replace(pc=psw.pc + 1)
    elif target == "memory":
        machine.write(place, value)
    machine.psw = after


def step(machine) -> int:
    """Execute one instruction, or trap: swap PSWs through the storage. Return the cause, 0 for none.

    >>> machine = Machine([Instruction("memory", "psw", "trap")], [0] * 12)
    >>> machine.load(machine.psw._replace(mode=USER))
    >>> step(machine) == PRIVILEGED, machine.storage[:6]
    (True, [0, 0, 0, 12, 0, 1])
    """
    try:
        machine.attempt()
    except Trap as trap:
        for i, word in enumerate((*machine.psw, trap.args[0])):
            machine.write(OLD + i, word)
        machine.resume(_psw([machine.read(NEW + i) for i in range(5)]))
        return trap.args[0]
    return 0


def classify(instruction: Instruction, vary=OWNED) -> frozenset[str]:
    """Return which of "privileged", "control" (-sensitive) and "behaviour" (-sensitive) hold, by trying all small states.

    Privileged: traps in user mode and never in supervisor mode, memory traps aside. Control-sensitive: changes what the
    VMM must own, without a trap. Behaviour-sensitive: the guest's own storage and program counter being the same,
    another value of what the VMM owns changes the result. `vary` names what is varied; with the mode alone, an
    instruction such as SGDT, which tells the truth about the host in either mode, passes for innocuous [PG74].

    >>> sorted(classify(Instruction("base", "memory")))
    ['behaviour']
    >>> sorted(classify(Instruction("base", "memory"), vary=("mode",)))
    []
    """
    found, traps = set(), {USER: set(), SUPERVISOR: set()}
    values = {"mode": (USER, SUPERVISOR), "base": (2, 3), "bound": (8, 9), "flag": (0, 1)}
    for address, fill in product((0, 2), product((0, 1), repeat=3)):
        results = {}  # by what is held fixed
        for mode, base, bound, flag in product(*(values[name] for name in OWNED)):
            before = PSW(mode, 5, base, bound, flag)
            machine = Machine([instruction], [0] * base + [*fill, 1, 5, 3, 9, *fill] + [0] * 2)
            machine.load(before)
            try:
                execute(machine, instruction, address)
                cause = 0
            except Trap as trap:
                cause = trap.args[0]
            traps[mode].add(cause)
            if not cause and any(getattr(machine.psw, name) != getattr(before, name) for name in OWNED):
                found.add("control")
            fixed = tuple(getattr(before, name) for name in OWNED if name not in vary)
            results.setdefault(fixed, set()).add((cause, machine.psw.pc, *machine.storage[base : base + 8]))
        if any(len(same) > 1 for same in results.values()):
            found.add("behaviour")
    if traps[USER] - {MEMORY} == {PRIVILEGED} and PRIVILEGED not in traps[SUPERVISOR]:
        found.add("privileged")
    return frozenset(found)


def sensitive(kinds: frozenset[str]) -> bool:
    """Return whether the kinds of `classify` make an instruction sensitive."""
    return bool(kinds & {"control", "behaviour"})


def virtualizable(instructions) -> bool:
    """Return whether every sensitive instruction is privileged: the condition of Theorem 1 [PG74].

    >>> virtualizable([Instruction("memory", "flag", "trap"), Instruction("increment", "memory")])
    True
    >>> virtualizable([Instruction("memory", "flag", "ignore")])
    False
    """
    kinds = [classify(instruction) for instruction in instructions]
    return all("privileged" in k or not sensitive(k) for k in kinds)


class Monitor:
    """A VMM by trap and emulate: to its guest it is a machine with `size` words, which lie at `offset` of the one below.

    The guest always runs in user mode, relocated into its words. A trap out of the guest's virtual supervisor mode is
    interpreted, any other is the guest's own. Since a monitor is a machine, it can stand on a monitor (Theorem 2); as
    a guest's PSW is loaded by a privileged instruction, the lower one then sees two exits for each of the upper one.
    `hybrid` interprets the whole virtual supervisor mode and asks less of the instruction set (Theorem 3) [PG74].
    """

    def __init__(self, below, offset: int, size: int, hybrid: bool = False):
        if not 0 <= offset <= offset + size <= below.size:
            raise ValueError(f"guest at {offset} with {size} words, allowed: within the {below.size} words below")
        self.below, self.offset, self.size, self.hybrid = below, offset, size, hybrid
        self.instructions, self.exits, self.direct = below.instructions, 0, 0
        self.resume(PSW(bound=size))

    def read(self, place: int) -> int:
        """Return the word at one of the guest's absolute places."""
        return self.below.read(self.offset + place)

    def write(self, place: int, word: int):
        """Set the word at one of the guest's absolute places."""
        self.below.write(self.offset + place, word)

    def resume(self, psw: PSW):
        """Let the guest go on with this PSW, as it sees it; the one below gets what keeps the guest inside its words."""
        self.psw = psw
        bound = min(psw.bound, self.size - psw.base)
        self.below.load(PSW(USER, psw.pc, self.offset + psw.base, bound, flag=1))

    def load(self, psw: PSW):
        """Take a new PSW from a guest that executed a privileged instruction: an exit."""
        self.exits += 1
        self.resume(psw)

    def attempt(self):
        """Execute one instruction of the guest, or raise `Trap` for the guest."""
        if self.hybrid and self.psw.mode == SUPERVISOR:
            return self._interpret()
        try:
            self.below.attempt()
            self.direct += 1
            self.psw = self.psw._replace(pc=self.below.psw.pc)
        except Trap as trap:
            self.exits += 1
            if trap.args[0] != PRIVILEGED or self.psw.mode == USER:
                raise
            self._interpret()

    def _interpret(self):
        virtual = Virtual(self)
        execute(virtual, *fetch(virtual))
        self.resume(virtual.psw)


class Virtual:
    """The guest's machine as the interpreter of a monitor sees it: the guest's words and a copy of its PSW."""

    def __init__(self, monitor: Monitor):
        self.psw, self.size, self.instructions = monitor.psw, monitor.size, monitor.instructions
        self.read, self.write = monitor.read, monitor.write
