"""The bridge to QEMU: the guest's bytes, the wire, the arguments; and, where there is a QEMU, one real migration."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vlib import fidelity
from vlib.real import qemu
from vlib.real import wire as wires
from vlib.real.bare_guest import BASE, HIGH, PAGE, PROTECTED, cycles_per_second, firmware

needs_qemu = pytest.mark.skipif(qemu.unavailable() is not None, reason=str(qemu.unavailable()))
GOOD = {
    "name": "A", "ram_mib": 16, "filled_pages": 3000, "working_set_pages": 64, "writes_per_s": 500,
    "bandwidth_mib_s": 16, "downtime_limit_ms": 100, "pattern": "uniform",
}  # fmt: skip


# --- the guest --------------------------------------------------------------------------------------------------------


def run_in_unicorn(image, instructions):
    """Run the guest from where protected mode begins; return the memory of its data and ESI, EDI."""
    unicorn = pytest.importorskip("unicorn")
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    machine.mem_map(HIGH, len(image))
    machine.mem_write(HIGH, image)
    machine.mem_map(BASE, 64 * PAGE)
    # Only segment registers need a descriptor table: flat here already, the loads are skipped (10 bytes).
    machine.emu_start(HIGH + PROTECTED + 10, 0, count=instructions)
    return bytes(machine.mem_read(BASE, 64 * PAGE))


def dwords(memory, offset):
    return [struct.unpack_from("<I", memory, page + offset)[0] for page in range(0, len(memory), PAGE)]


@pytest.mark.parametrize("filled", [0, 1, 20])
def test_the_guest_fills_the_pages_that_it_shall_and_no_other(filled):
    memory = run_in_unicorn(firmware(filled, 4, 1), 5 + 4 * filled)
    assert dwords(memory, 4) == [1] * filled + [0] * (64 - filled)
    assert sum(map(bool, memory)) == filled


def test_a_sequential_guest_writes_page_after_page_and_begins_again():
    memory = run_in_unicorn(firmware(8, 5, 1, "sequential"), 800)
    numbers = dwords(memory, 0)
    last = max(numbers)
    assert last > 10
    assert sorted(numbers[:5]) == list(range(last - 4, last + 1))
    assert numbers[(last - 1) % 5] == last
    assert numbers[5:] == [0] * 59


def test_a_uniform_guest_stays_in_its_working_set_and_leaves_none_of_it_out():
    image = firmware(0, 13, 1)
    assert dwords(run_in_unicorn(image, 30), 0)[0] == 1  # the first write goes to the first page
    numbers = dwords(run_in_unicorn(image, 4000), 0)
    assert all(numbers[:13]) and numbers[13:] == [0] * 51
    # The pages as a generator of our own gives them, so that the numbers of the last writes are known.
    state, expected = 0, [0] * 64
    for number in range(1, max(numbers) + 1):
        expected[state * 13 >> 32] = number
        state = (state * 1664525 + 1013904223) % 2**32
    assert numbers == expected


def test_the_guest_waits_for_the_time_of_the_next_write():
    # A period of an hour, longer than 32 bits of cycles: one write, then none.
    assert max(dwords(run_in_unicorn(firmware(0, 4, 2**43), 3000), 0)) == 1


def test_the_image_starts_in_real_mode_at_its_end():
    image = firmware(1, 1, 1)
    opcode, distance = struct.unpack_from("<Bh", image, 0xFFF0)
    assert opcode == 0xE9 and (0xFFF3 + distance) % 65536 == 0  # jmp 0
    assert image[0] == 0xFA
    limit, address = struct.unpack_from("<HI", image, struct.unpack_from("<H", image, 6)[0])
    table = image[address - HIGH : address - HIGH + limit + 1]
    assert struct.unpack("<QQQ", table) == (0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF)
    assert struct.unpack_from("<IH", image, 18) == (HIGH + PROTECTED, 8)


@pytest.mark.skipif(qemu.platform.machine() not in ("x86_64", "AMD64"), reason="reads the counter of an x86-64")
def test_the_counter_is_that_of_a_processor_of_our_days():
    assert 10**8 < cycles_per_second() < 10**10


# --- the wire ---------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only sleeping moves, so that the rate of the wire is exact."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("rate", [2**20, 48 * 2**20, 3 * 2**30])
def test_the_wire_carries_every_byte_at_its_rate(tmp_path, monkeypatch, rate):
    clock = Clock()
    monkeypatch.setattr(wires, "time", clock)
    data = os.urandom(1_000_003)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "b"))
        end.listen(1)
        end.settimeout(30)
        wire = wires.Wire(tmp_path / "a", tmp_path / "b", rate)
        wire.start()
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(str(tmp_path / "a"))
            threading.Thread(target=lambda: (sender.sendall(data), sender.shutdown(socket.SHUT_WR))).start()
            receiver = end.accept()[0]
            receiver.settimeout(30)
            with receiver, receiver.makefile("rb") as stream:
                assert stream.read() == data
            wire.join(30)
    assert not wire.is_alive() and wire.error is None
    assert clock.now == pytest.approx(len(data) / rate, rel=1e-6)


@pytest.mark.parametrize("stall", [0.01, 10])
def test_a_wire_makes_up_for_a_stall_but_only_for_a_twentieth_of_a_second(tmp_path, monkeypatch, stall):
    clock = Clock()
    monkeypatch.setattr(wires, "time", clock)
    wire = wires.Wire(tmp_path / "a", tmp_path / "b", 500_000)
    wire.listener.close()
    chunks, one = 60, wire.chunk / wire.rate
    into, out = socket.socketpair(socket.AF_UNIX)
    far, end = socket.socketpair(socket.AF_UNIX)
    with into, out, far, end:
        into.sendall(bytes(chunks * wire.chunk))  # all there before the wire begins: less than a socket holds
        into.shutdown(socket.SHUT_WR)
        monkeypatch.setattr(clock, "sleep", stalls_once(clock, stall))
        wire._forward(out, far)
        assert len(end.recv(2**20)) == chunks * wire.chunk
    forgiven = max(0, stall - wire.SLACK_S)
    assert clock.now == pytest.approx(chunks * one + forgiven, abs=1.1 * one)


def test_a_wire_saves_nothing_up_while_there_is_nothing_to_send(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(wires, "time", clock)
    wire = wires.Wire(tmp_path / "a", tmp_path / "b", 500_000)
    wire.listener.close()
    into, out = socket.socketpair(socket.AF_UNIX)
    far, end = socket.socketpair(socket.AF_UNIX)
    with into, out, far, end:
        thread = threading.Thread(target=wire._forward, args=(out, far))
        thread.start()
        for _ in range(3):
            time.sleep(0.05)  # the real clock: so that the wire finds nothing and waits
            clock.now += 0.04  # while it waits
            into.sendall(b"x")
            assert end.recv(10) == b"x"
        into.shutdown(socket.SHUT_WR)
        thread.join(30)
    assert clock.now == pytest.approx(3 * (0.04 + 1 / wire.rate))


def stalls_once(clock, stall):
    late = [stall]

    def sleep(seconds):
        clock.now += seconds + (late.pop() if late else 0)

    return sleep


def test_a_wire_without_a_far_end_says_so(tmp_path):
    wire = wires.Wire(tmp_path / "a", tmp_path / "nothing", 1000)
    wire.start()
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(str(tmp_path / "a"))
        wire.join(30)
    assert isinstance(wire.error, FileNotFoundError)


# --- what may be asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("ram_mib", 1, "ram_mib is 1, allowed: whole numbers, 2 to 2048"),
        ("ram_mib", 4096, "ram_mib is 4096, allowed: whole numbers, 2 to 2048"),
        ("filled_pages", 3841, "filled_pages is 3841, allowed: whole numbers, 0 to 3840"),
        ("working_set_pages", 0, "working_set_pages is 0, allowed: whole numbers, 1 to 3840"),
        ("writes_per_s", 0, "writes_per_s is 0, allowed"),
        ("bandwidth_mib_s", 0.5, "bandwidth_mib_s is 0.5, allowed"),
        ("downtime_limit_ms", -1, "downtime_limit_ms is -1, allowed"),
        ("pattern", "zipf", "pattern is 'zipf', allowed: uniform or sequential"),
    ],
)
def test_a_point_out_of_range_is_refused(field, value, told):
    with pytest.raises(ValueError, match="^" + told):
        qemu.Point(**GOOD | {field: value})


def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    out = tmp_path / "points.json"
    assert qemu.main(["A", "--ram-mib", "1", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "ValueError: ram_mib is 1, allowed: whole numbers, 2 to 2048\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu.main(["A", "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and (
        "no qemu-system-x86_64 on the PATH" in lines[0] or "only" in lines[0] or "x86-64" in lines[0]
    )
    assert not out.exists()


def test_a_point_of_the_same_name_is_replaced_and_what_was_said_is_kept(tmp_path):
    path = tmp_path / "points.json"
    for name, total in (("A", 1.0), ("B", 2.0), ("A", 3.0)):
        run = {"total_s": total, "sent_bytes": 5, "passes": [[0.25, 1], [1.5, 2]]}
        qemu.add(path, GOOD | {"name": name, "runs": [run]})
        told = json.loads(path.read_text())
        if len(told["points"]) == 1:
            path.write_text(json.dumps(told | {"what": "mine"}))
    told = json.loads(path.read_text())
    assert told["what"] == "mine"
    assert [(point["name"], point["runs"][0]["total_s"]) for point in told["points"]] == [("B", 2.0), ("A", 3.0)]
    assert told["points"][1]["runs"][0]["passes"] == [[0.25, 1], [1.5, 2]]
    assert "[0.25, 1]" in path.read_text()
    assert fidelity.load(path)[0]["name"] == "B"
    assert [file.name for file in tmp_path.iterdir()] == ["points.json"]


# --- the real thing ---------------------------------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("relay", [False, True])
def test_a_real_migration_ends_with_equal_memories_and_as_the_model_says(relay):
    measured = qemu.measure(qemu.Point(**GOOD), runs=1, relay=relay)
    key = "through_a_16_mib_s_relay" if relay else "runs"
    [run] = measured[key]
    assert run["completed"] and run["stale_pages"] == 0
    # What is asked in intervals can miss a pass of a busy moment, but never sees one twice or out of order.
    passes = [number for _, number in run["passes"]]
    assert passes == sorted(set(passes)) and passes[0] >= 1 and passes[-1] <= run["dirty_syncs"]
    assert 3000 * 4104 < run["sent_bytes"] < 3400 * 4104
    rows = {row.quantity: row for row in fidelity.qemu_rows(measured) if row.point == ("A relay" if relay else "A")}
    assert rows["converges"].model == (True,) * len(rows["converges"].model)
    # A host with other work makes a migration longer, never shorter; so only the lower bound is tight.
    [total] = rows["total (s)"].measured
    assert min(rows["total (s)"].model) * 0.9 < total < max(rows["total (s)"].model) * 5


@needs_qemu
def test_what_does_not_converge_is_cut():
    point = qemu.Point(**GOOD | {"working_set_pages": 3000, "writes_per_s": 50_000, "downtime_limit_ms": 10})
    run = qemu.migrate(point, cut=1.5)
    assert not run["completed"] and run["total_s"] > 1.4
    assert "downtime_ms" not in run and "stale_pages" not in run


@needs_qemu
def test_a_command_that_qemu_refuses_is_told(tmp_path):
    (tmp_path / "rom").write_bytes(firmware(1, 1, 10**6))
    with qemu.Machine(tmp_path, "a", 2, tmp_path / "rom") as machine:
        with pytest.raises(RuntimeError, match="QEMU refuses no-such-command"):
            machine.ask("no-such-command")
        pid = machine.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match=r"qemu-system-x86_64 ended: .*no such rom"):
        qemu.Machine(tmp_path, "b", 2, tmp_path / "no such rom")


@needs_qemu
def test_qemu_dies_with_the_process_that_started_it(tmp_path):
    (tmp_path / "rom").write_bytes(firmware(1, 1, 10**6))
    code = (
        "import sys, time; from pathlib import Path; from vlib.real import qemu\n"
        "machine = qemu.Machine(Path(sys.argv[1]), 'a', 2, Path(sys.argv[1]) / 'rom')\n"
        "print(machine.process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes()
        parent.send_signal(signal.SIGKILL)
    for _ in range(1000):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"the QEMU process {pid} outlived its parent")
