"""No monitor at all: the machine that all others are held against."""

from vlib.guests import Guest
from vlib.monitors.base import Host, Monitor


class Native(Monitor):
    r"""The guest alone on a machine with just the memory that it expects.

    >>> from vlib.guests import guest
    >>> machine = Native(guest("kernel"))
    >>> machine.run(), machine.console, machine.exits
    ('halt', 'AAAABBBBAA6BB6\n', [])
    """

    def __init__(self, guest: Guest):
        super().__init__(guest, Host(guest.memory))
        self.v.paging.nested = None

    def run(self, limit: int = 1_000_000) -> str:
        """Run for up to `limit` steps; return "limit", "halt" or "shutdown"."""
        return self.v.run(limit)
