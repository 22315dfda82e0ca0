"""The classifier against what the instructions declare, and the theorems by running every small program."""

from itertools import product

import pytest

from vlib.popek_goldberg import (
    IN_USER_MODE,
    MEMORY,
    OWNED,
    PRIVILEGED,
    PSW,
    SOURCES,
    SUPERVISOR,
    TARGETS,
    USER,
    WORDS,
    Instruction,
    Machine,
    Monitor,
    classify,
    sensitive,
    step,
    virtualizable,
)

STORE, ADD, JUMP = Instruction("address", "memory"), Instruction("increment", "memory"), Instruction("address", "pc")
LOAD_PSW = Instruction("memory", "psw", "trap")
BASIC = (STORE, ADD, JUMP, LOAD_PSW)
ALL = [
    Instruction(source, target, user)
    for source, target, user in product(SOURCES, TARGETS, IN_USER_MODE)
    if target != "psw" or source == "memory"
]
SIZE = 40
HANDLER, START, APP, APP_PSW, DATA = 11, 14, 20, 28, 33


def declared(instruction):
    """What the definitions say, read off the declaration instead of tried out."""
    source, target, user = instruction
    nothing = source == target
    kinds = set()
    if user == "trap":
        kinds |= {"privileged", "behaviour"}
    if target in (*OWNED, "psw") and not nothing:
        kinds.add("control")
    if target in ("memory", "pc", "psw") and not nothing and (source in OWNED or user == "ignore"):
        kinds.add("behaviour")
    return kinds


@pytest.mark.parametrize("instruction", ALL, ids="-".join)
def test_classifier_agrees_with_the_definitions(instruction):
    assert classify(instruction) == declared(instruction)


def test_comparing_the_modes_alone_misses_what_reads_the_host():
    missed = [i for i in ALL if sensitive(classify(i)) and not sensitive(classify(i, vary=("mode",)))]
    assert {(i.source, i.target, i.user) for i in missed} == {
        (source, target, "same") for source in ("base", "bound", "flag") for target in ("memory", "pc")
    }


def storage(instruction, kernel, app, base):
    """A small operating system: a kernel that starts an application, and a trap handler that goes back to the kernel."""
    instructions = (*BASIC, instruction)
    words = [0] * SIZE
    words[6:11] = PSW(SUPERVISOR, HANDLER, 0, SIZE, 1)
    words[APP_PSW:DATA] = PSW(USER, APP - base, base, SIZE - base - 2, 1)

    def put(place, program):
        words[place : place + len(program)] = [instructions.index(i) * WORDS + address for i, address in program]

    put(HANDLER, [(ADD, DATA), (ADD, DATA + 1), (JUMP, START + 1)])
    put(START, [*kernel, (LOAD_PSW, APP_PSW)])
    put(APP, [*app, (LOAD_PSW, 0)])
    return instructions, words, PSW(SUPERVISOR, START, 0, SIZE, 0)


def systems(instruction):
    others = [(STORE, DATA + 2), (ADD, DATA + 2), (JUMP, APP + 1), (LOAD_PSW, APP_PSW)]
    for address, (other, base) in product((1, DATA + 2, APP_PSW), product(others, (0, 2))):
        here = (instruction, address)
        yield storage(instruction, [here, other], [(ADD, DATA), here], base)
        yield storage(instruction, [other, here], [here, other], base)


def history(machine, psw, steps=14):
    machine.resume(psw)
    states = []
    for _ in range(steps):
        cause = step(machine)
        states.append((cause, machine.psw, [machine.read(i) for i in range(SIZE)]))
    return states


def guest(instructions, words, levels=1, hybrid=False):
    """Monitors on monitors, and the guest's words in the innermost."""
    machine = Machine(instructions, [7] * (SIZE + 12))
    for level in range(levels):
        machine = Monitor(
            machine, offset=3, size=SIZE + 12 - 5 * (level + 1) if level < levels - 1 else SIZE, hybrid=hybrid
        )
    for place, word in enumerate(words):
        machine.write(place, word)
    return machine


def equivalent(instruction, **how):
    return all(
        history(Machine(instructions, words), psw) == history(guest(instructions, words, **how), psw)
        for instructions, words, psw in systems(instruction)
    )


def test_theorem_1_is_sufficient_and_not_necessary():
    wrong, harmless = set(), set()
    for instruction in ALL:
        if virtualizable([*BASIC, instruction]):
            assert equivalent(instruction), instruction
        else:
            (harmless if equivalent(instruction) else wrong).add(instruction)
    assert Instruction("memory", "flag", "ignore") in wrong  # popf
    assert Instruction("base", "memory") in wrong  # sgdt
    assert Instruction("mode", "memory") in wrong  # push cs
    # Sensitive, unprivileged, and yet no program can tell: this monitor never gives the guest another bound.
    assert harmless == {Instruction("bound", target) for target in ("memory", "pc")}


def test_theorem_2_a_monitor_under_itself_and_its_exits():
    total = 0
    for instructions, words, psw in systems(Instruction("memory", "flag", "trap")):
        native = history(Machine(instructions, words), psw)
        exits = []
        for levels in (1, 2):
            machine = guest(instructions, words, levels)
            bottom = machine if levels == 1 else machine.below
            before = bottom.exits
            assert history(machine, psw) == native
            exits.append((machine.exits, bottom.exits - before))
        (one, _), (two, lowest) = exits
        assert one == two
        assert (
            lowest == 2 * two + 1
        )  # the trap itself, and the PSW that the upper monitor loads; one for the first start
        total += two
    assert total > 100


def test_theorem_3_a_hybrid_monitor_copes_with_leaving_supervisor_mode():
    leave = Instruction("address", "mode")  # JRST 1 of the PDP-10: an even address means user mode
    words = storage(leave, [(leave, 2), (ADD, DATA)], [(ADD, DATA)], 0)
    native = history(Machine(*words[:2]), words[2])
    assert history(guest(*words[:2]), words[2]) != native
    assert history(guest(*words[:2], hybrid=True), words[2]) == native


def test_no_program_reaches_outside_its_words():
    for instruction in (i for i in ALL if virtualizable([*BASIC, i])):
        for instructions, words, psw in systems(instruction):
            machine = guest(instructions, words)
            history(machine, psw)
            assert machine.below.storage[:3] == [7] * 3 and set(machine.below.storage[SIZE + 3 :]) == {7}


def test_traps_store_the_old_psw_and_fetch_the_new_one():
    instructions, words, psw = storage(STORE, [(ADD, SIZE)], [], 0)
    machine = Machine(instructions, words)
    machine.load(psw)
    assert step(machine) == MEMORY
    assert machine.storage[:6] == [*psw, MEMORY] and machine.psw == PSW(SUPERVISOR, HANDLER, 0, SIZE, 1)
    machine.load(PSW(USER, START + 1, 0, SIZE, 0))
    assert step(machine) == PRIVILEGED


def test_direct_execution_prevails():
    instructions, words, psw = storage(ADD, [(ADD, DATA)] * 5, [], 0)
    machine = guest(instructions, words)
    history(machine, psw, steps=5)
    assert (machine.direct, machine.exits) == (5, 0)


def test_a_guest_must_fit():
    with pytest.raises(ValueError, match="guest at 3 with 20 words, allowed: within the 22 words below"):
        Monitor(Machine(BASIC, [0] * 22), 3, 20)
