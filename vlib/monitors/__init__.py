"""One guest, five monitors: the same interface, each short enough to be read whole."""

from vlib.monitors.base import Exit, Host, Monitor, side_by_side
from vlib.monitors.native import Native
from vlib.monitors.trap_and_emulate import TrapAndEmulate

__all__ = ["Exit", "Host", "Monitor", "Native", "TrapAndEmulate", "side_by_side"]
