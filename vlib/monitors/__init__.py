"""One guest, five monitors: the same interface, each short enough to be read whole."""

from vlib.monitors.base import Exit, Host, Monitor, side_by_side
from vlib.monitors.binary_translation import BinaryTranslation
from vlib.monitors.hardware import Hardware
from vlib.monitors.native import Native
from vlib.monitors.trap_and_emulate import TrapAndEmulate
from vlib.monitors.vmcs import VMCS, Controls

__all__ = [
    "VMCS",
    "BinaryTranslation",
    "Controls",
    "Exit",
    "Hardware",
    "Host",
    "Monitor",
    "Native",
    "TrapAndEmulate",
    "side_by_side",
]
