"""A link with a bandwidth, between two processes on one machine."""

import select
import socket
import threading
import time
from pathlib import Path

PEER_S = 30  # so long may either end keep the other waiting


class Wire(threading.Thread):
    """Forward bytes from one UNIX socket to another, `rate` a second: a link with a bandwidth.

    A chunk leaves when the one before it has passed. If this thread was late, it makes up for it, but for no more than
    `SLACK_S`; while there is nothing to send, nothing is saved up. Read `error` after joining it.
    """

    SLACK_S = 0.05

    def __init__(self, source: Path, destination: Path, rate: int):
        super().__init__(daemon=True)
        if rate < 1:
            raise ValueError(f"rate is {rate}, allowed: bytes a second, 1 or more")
        self.rate, self.destination, self.error = rate, destination, None
        self.chunk = min(max(rate // 500, 1024), 65536)  # about 2 ms
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PEER_S)
        self.listener.bind(str(source))
        self.listener.listen(1)

    def run(self):
        """Forward until the sender closes."""
        try:
            with self.listener, self.listener.accept()[0] as sender, socket.socket(socket.AF_UNIX) as receiver:
                sender.settimeout(PEER_S)
                receiver.settimeout(PEER_S)
                receiver.connect(str(self.destination))
                self._forward(sender, receiver)
        except OSError as error:
            self.error = error

    def _forward(self, sender, receiver):
        free = time.monotonic()  # when the wire is free again
        while True:
            waiting, _, _ = select.select([sender], [], [], 0)
            data = sender.recv(self.chunk)
            free = max(free, time.monotonic() - (self.SLACK_S if waiting else 0))
            if not data:
                return
            free += len(data) / self.rate
            time.sleep(max(0, free - time.monotonic()))
            receiver.sendall(data)
