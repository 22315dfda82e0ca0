"""Migrate a bare-metal guest between two real QEMU processes, and measure it.

``python -m vlib.real.qemu --help`` measures one point and puts it into a file that ``python -m vlib.fidelity`` reads.
The guest is that of `bare_guest`; emulated are a processor (TCG), memory and a board without devices. The guest is
timed by the processor's own counter, so a busy host disturbs it: look at `writes_per_s` and at the spread of the runs.
Linux on x86-64 only; needs `qemu-system-x86_64`.
"""

import argparse
import ctypes
import functools
import json
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vlib.real.bare_guest import BASE, PAGE, PATTERNS, cycles_per_second, firmware
from vlib.real.wire import Wire

MIB = 2**20
QEMU = "qemu-system-x86_64"
START_S = 30  # a guest that has not filled its memory by then has failed
CUT_S = 20  # a migration that has not converged by then is cut
ANSWER_S = 30  # ... and so long may QEMU take for one answer

# QEMU 7.2 under TCG loses dirty bits if the guest's memory is a multiple of 256 KiB: this much more prevents it.
EXTRA_KIB = 8


@dataclass(frozen=True)
class Point:
    """Say what is to be measured: a guest, a limit of bandwidth and one of downtime.

    The fields are those of the points in `bench/data/qemu-migrations.json`. ``ValueError`` if one is out of range.

    >>> Point("A", 128, 16384, 4096, 2000, 32, 300, "zipf")
    Traceback (most recent call last):
    ValueError: pattern is 'zipf', allowed: uniform or sequential
    """

    name: str
    ram_mib: int
    filled_pages: int
    working_set_pages: int
    writes_per_s: int
    bandwidth_mib_s: int
    downtime_limit_ms: int
    pattern: str = "uniform"

    def __post_init__(self):
        _check("ram_mib", self.ram_mib, 2, 2048)
        pages = (self.ram_mib * MIB - BASE) // PAGE  # of the guest's own
        _check("filled_pages", self.filled_pages, 0, pages)
        _check("working_set_pages", self.working_set_pages, 1, pages)
        _check("writes_per_s", self.writes_per_s, 1, 1_000_000)
        _check("bandwidth_mib_s", self.bandwidth_mib_s, 1, 1024)
        _check("downtime_limit_ms", self.downtime_limit_ms, 1, 2_000_000)
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern is {self.pattern!r}, allowed: {' or '.join(PATTERNS)}")


def _check(name, value, low, high):
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value}, allowed: whole numbers, {low} to {high}")


def unavailable() -> str | None:
    """Return why no migration can be run here, or None if one can."""
    if not sys.platform.startswith("linux"):
        return f"two QEMU processes are driven on Linux only, this is {sys.platform}"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the guest is timed by the counter of an x86-64 processor, this is {platform.machine()}"
    if not shutil.which(QEMU):
        return f"there is no {QEMU} on the PATH (Debian: apt install qemu-system-x86)"
    return None


class Machine:
    """Run one QEMU process and speak QMP to it; leaving the ``with`` block kills it.

    `ask` raises ``RuntimeError`` if QEMU refuses a command, ``TimeoutError`` if it does not answer.
    """

    def __init__(self, folder: Path, name: str, ram_mib: int, image: Path, *flags: str):
        self.folder, self.events, self.lines = folder, [], None
        path = folder / f"{name}.qmp"
        libc = ctypes.CDLL(None)  # loaded here: between fork and exec as little as possible may happen
        board = [
            "-nodefaults",
            "-display",
            "none",
            "-vga",
            "none",
            "-net",
            "none",
            "-machine",
            "pc,usb=off",
            "-accel",
            "tcg",
        ]
        memory = f"{ram_mib * 1024 + EXTRA_KIB}k"
        self.process = subprocess.Popen(
            [QEMU, *board, "-m", memory, "-bios", image, *flags, "-qmp", f"unix:{path},server=on,wait=off"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=functools.partial(_die_with, os.getpid(), libc),
        )
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(ANSWER_S)
            self._connect(path)
            self.lines = self.socket.makefile("r", encoding="utf-8")
            self._read()  # the greeting
            self.ask("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _connect(self, path):
        for _ in range(500):
            if self.process.poll() is not None:
                raise self._ended()
            try:
                return self.socket.connect(str(path))
            except OSError:
                time.sleep(0.01)
        raise TimeoutError(f"{QEMU} opens no socket")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Kill the process and wait for its end."""
        if self.lines:
            self.lines.close()
        self.socket.close()
        self.process.kill()
        self.process.wait(ANSWER_S)
        self.process.stderr.close()

    def _read(self):
        try:
            line = self.lines.readline()
        except ConnectionError:
            line = ""
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self):
        self.process.kill()  # it is ending; this makes sure that reading what it said does too
        return RuntimeError(f"{QEMU} ended: {self.process.stderr.read().decode().strip()[:300]}")

    def ask(self, command: str, **arguments):
        """Send one command and return its answer; events that come before it are kept in `events`."""
        message = {"execute": command, "arguments": {key.replace("_", "-"): v for key, v in arguments.items()}}
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        while "return" not in (answer := self._read()):
            if "error" in answer:
                raise RuntimeError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
            self.events.append(answer)
        return answer["return"]

    def when(self, event: str, **data) -> float | None:
        """Return the time (s since 1970) of the last event of that name and data so far, or None."""
        for found in reversed(self.events):
            if found.get("event") == event and data.items() <= found.get("data", {}).items():
                return found["timestamp"]["seconds"] + found["timestamp"]["microseconds"] / 1e6
        return None

    def save(self, address: int, size: int) -> Path:
        """Write a piece of the guest's memory into a file, and return that."""
        path = self.folder / f"memory-{self.process.pid}"
        self.ask("pmemsave", val=address, size=size, filename=str(path))
        return path

    def first_dword(self) -> int:
        """Return the number of the last write into the first page of the working set; 0 if there was none."""
        return struct.unpack("<I", self.save(BASE, 4).read_bytes())[0]


def _die_with(parent: int, libc):
    """Let the kernel kill this new process when the one that started it dies."""
    pr_set_pdeathsig = 1
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _until(seconds, ready, what):
    """Call `ready` every 10 ms until it gives something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise TimeoutError(f"{what} took more than {seconds} s")


def migrate(point: Point, relay: bool = False, head_start: float = 0.3, cut: float = CUT_S) -> dict:
    """Migrate the point's guest once, and return the run as in `bench/data/qemu-migrations.json`.

    Without `relay` the bandwidth is QEMU's max-bandwidth, which it lifts for the last phase: no downtime is told. With
    it QEMU has no limit and the wire has one. The guest writes for `head_start` seconds before; a migration that takes
    longer than `cut` seconds is ended. ``RuntimeError`` or ``TimeoutError`` if QEMU fails.
    """
    if reason := unavailable():
        raise RuntimeError(reason)
    with tempfile.TemporaryDirectory(prefix="vlib-qemu-") as name:
        folder = Path(name)
        period = max(1, round(cycles_per_second() / point.writes_per_s))
        image = folder / "rom"
        image.write_bytes(firmware(point.filled_pages, point.working_set_pages, period, point.pattern))
        with (
            Machine(folder, "a", point.ram_mib, image) as a,
            Machine(folder, "b", point.ram_mib, image, "-incoming", "defer", "-S") as b,
        ):
            _until(START_S, a.first_dword, "filling the guest's memory")
            writing_since = time.time()
            time.sleep(head_start)
            rate = point.bandwidth_mib_s * MIB
            for machine in (a, b):
                machine.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            a.ask(
                "migrate-set-parameters",
                max_bandwidth=0 if relay else rate,
                downtime_limit=point.downtime_limit_ms,
            )
            b.ask("migrate-incoming", uri=f"unix:{folder / 'b.in'}")
            wire = Wire(folder / "wire", folder / "b.in", rate) if relay else None
            if wire:
                wire.start()
            began = time.time()
            a.ask("migrate", uri=f"unix:{folder / ('wire' if relay else 'b.in')}")
            info = _watch(a, began + cut)
            run = {
                "total_s": info["total-time"] / 1000,
                "sent_bytes": info["ram"]["transferred"],
                "dirty_syncs": info["ram"]["dirty-sync-count"],
                "completed": info["status"] == "completed",
            }
            if wire:
                wire.join(ANSWER_S)
                if run["completed"] and wire.error:
                    raise RuntimeError(f"the wire failed: {wire.error}")
            if run["completed"]:
                loaded = functools.partial(_arrived, b)
                _until(ANSWER_S, loaded, "loading at the destination")
                if relay:
                    run["downtime_ms"] = info["downtime"]
                    run["stop_to_loaded_ms"] = round((loaded() - a.when("STOP")) * 1000)
                run["stale_pages"], writes = _compare(a, b, point)
                run["writes_per_s"] = round(writes / (a.when("STOP") - writing_since), 1)
            run["passes"] = [
                [round(e["timestamp"]["seconds"] + e["timestamp"]["microseconds"] / 1e6 - began, 3), e["data"]["pass"]]
                for e in a.events
                if e.get("event") == "MIGRATION_PASS"
            ]
            return run


def _watch(machine, end) -> dict:
    """Return what QEMU tells of the migration at its end, or when it is cut."""
    while True:
        info = machine.ask("query-migrate")
        status = info.get("status")
        if status == "completed" and info.get("total-time"):  # "completed" can show before the times are filled in
            return info
        if status in ("failed", "cancelled"):
            raise RuntimeError(f"the migration {status}: {info.get('error-desc', 'QEMU gives no reason')}")
        if status == "active" and time.time() > end:
            machine.ask("migrate_cancel")
            return info
        if time.time() > end + ANSWER_S:
            raise TimeoutError(f"the migration is {status} and does not end")
        time.sleep(0.02)


def _arrived(machine) -> float | None:
    machine.ask("query-status")  # reads the events, too
    if machine.when("MIGRATION", status="failed"):
        raise RuntimeError("the migration failed at the destination")
    return machine.when("MIGRATION", status="completed")


def _compare(a, b, point) -> tuple[int, int]:
    """Return how many pages differ between two stopped machines, and how many writes the guest has made."""
    stale = writes = at = 0
    size = point.ram_mib * MIB + EXTRA_KIB * 1024
    with a.save(0, size).open("rb") as left, b.save(0, size).open("rb") as right:
        while here := left.read(MIB):
            there = right.read(MIB)
            if here != there:
                stale += sum(here[i : i + PAGE] != there[i : i + PAGE] for i in range(0, len(here), PAGE))
            if at >= BASE:
                writes = max(writes, *memoryview(here).cast("I")[:: PAGE // 4].tolist())
            at += len(here)
    return stale, writes


def measure(point: Point, runs: int = 3, relay: bool = False, say=lambda text: None) -> dict:
    """Return the point with its measured runs, in the form of `bench/data/qemu-migrations.json`.

    Each run begins at another moment of the guest's writing, spread over one sweep (at most 4 s).
    """
    _check("runs", runs, 1, 100)
    found = asdict(point) | {"runs": []}
    sweep = min(point.working_set_pages / point.writes_per_s, 4)
    for key, through in [("runs", False)] + [(f"through_a_{point.bandwidth_mib_s}_mib_s_relay", True)] * relay:
        found[key] = []
        for i in range(runs):
            found[key].append(migrate(point, through, 0.3 + sweep * i / runs))
            say(f"{point.name} {key} {i + 1}/{runs}: " + json.dumps(found[key][-1] | {"passes": "..."}))
    return found


WHAT = "Live pre-copy migrations between two QEMU processes (TCG) on one machine, measured by vlib.real.qemu."


def add(path: Path, measured: dict) -> None:
    """Put a measured point into a file of points, in place of one of the same name; never leave half a file."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"what": WHAT, "points": []}
    others = [point for point in told["points"] if point["name"] != measured["name"]]
    text = json.dumps(told | {"points": [*others, measured]}, indent=1)
    text = re.sub(r"\[\s+([\d.]+),\s+(\d+)\s+\]", r"[\1, \2]", text)  # a pass on one line
    new = path.with_name(path.name + ".new")
    new.write_text(text + "\n", encoding="utf-8")
    os.replace(new, path)


def main(arguments: list[str]) -> int:
    """Measure one point and put it into a file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vlib.real.qemu", description=main.__doc__.split(";")[0] + ".")
    parser.add_argument("name", help="of the point; one of that name in the file is replaced")
    for field, default in (
        *(("ram_mib", 128), ("filled_pages", 16384), ("working_set_pages", 4096), ("writes_per_s", 2000)),
        *(("bandwidth_mib_s", 32), ("downtime_limit_ms", 300)),
    ):
        parser.add_argument("--" + field.replace("_", "-"), type=int, default=default, help=f"default {default}")
    parser.add_argument("--pattern", default="uniform", help=f"{' or '.join(PATTERNS)}; default uniform")
    parser.add_argument("--runs", type=int, default=3, help="default 3")
    parser.add_argument("--relay", action="store_true", help="measure also through a wire of that bandwidth")
    parser.add_argument("--out", type=Path, required=True, help="the file of points")
    given = vars(parser.parse_args(arguments))
    runs, relay, out = (given.pop(key) for key in ("runs", "relay", "out"))
    try:
        point = Point(**given)
        if reason := unavailable():
            raise RuntimeError(reason)
        add(out, measure(point, runs, relay, functools.partial(print, flush=True)))
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
