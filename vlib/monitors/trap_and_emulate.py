"""Trap and emulate by ring deprivileging: the classical monitor, on a processor that does not meet its condition.

What traps is emulated, or reflected to the guest. What does not trap is whatever the processor makes of it in the wrong
ring: the x86's sensitive unprivileged instructions run wrongly, and no one is told.
"""

from vlib.monitors.deprivileged import Deprivileged
from vlib.x86.traps import PF


class TrapAndEmulate(Deprivileged):
    """A guest kernel in ring 1, or 3, of the real processor.

    >>> from vlib.guests import guest
    >>> monitor = TrapAndEmulate(guest("push_cs"))
    >>> monitor.run(), monitor.console
    ('halt', '00000001')
    """

    def enter(self, limit: int):
        """Run the guest on the real processor up to its next trap, and handle that."""
        self.load()
        trap = self.cpu.execute(limit)
        self.unload()
        if trap is None:
            return
        if trap.vector == PF:
            self.shadow.fault(trap)
        else:
            self.emulate()
