"""One guest, five monitors: the same interface, each short enough to be read whole."""

from vlib.monitors.base import Difference, Exit, Host, Monitor, first_difference, side_by_side
from vlib.monitors.binary_translation import BinaryTranslation
from vlib.monitors.hardware import Hardware
from vlib.monitors.native import Native
from vlib.monitors.paravirtual import Paravirtual
from vlib.monitors.port import ported
from vlib.monitors.trap_and_emulate import TrapAndEmulate
from vlib.monitors.vmcs import VMCS, Controls

__all__ = [
    "VMCS",
    "BinaryTranslation",
    "Controls",
    "Difference",
    "Exit",
    "Hardware",
    "Host",
    "Monitor",
    "Native",
    "Paravirtual",
    "TrapAndEmulate",
    "first_difference",
    "ported",
    "side_by_side",
]
