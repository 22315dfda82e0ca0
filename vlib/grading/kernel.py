"""A kernel as nbval sees one, over any pair of byte streams, with every limit on the outside."""

import contextlib
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque

FRAME = 4_200_000  # bytes: a million characters of one shown value
OUTPUT = 16 << 20  # bytes of all that one task may say
FRAMES = 10_000  # and in how many frames
PRINTED = 20_000  # characters of prints kept for a cell, and of an error's text
SENDING = 10  # seconds until a kernel that reads nothing is given up


class Kernel:
    """Speak nbval's `RunningKernel` protocol with a runner, by a stream to write to and one to read from.

    `stop` ends the process behind the streams. A kernel that dies, floods or speaks nonsense is over: `ended` says
    why, in a line for the student, and every later call raises queue.Empty at once.
    """

    def __init__(self, write, read, stop, output=OUTPUT):
        self._write, self._read, self._stop = write, read, stop
        self.ended = ""
        self._output = output
        self._sent = 0
        self._iopub = deque()
        self._frames = queue.Queue(maxsize=1000)
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self):
        said = count = 0
        while True:
            try:
                line = self._read.readline(FRAME + 1)
            except (OSError, ValueError):
                line = b""
            said, count = said + len(line), count + 1
            if not line.endswith(b"\n") or said > self._output or count > FRAMES:
                ended = "its output was more than is read" if line else "the code ended Python itself"
                break
            try:
                message = _message(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                ended = "its output made no sense"
                break
            if not self._put((message, "")):
                return
        self._put((None, ended))

    def _put(self, item):
        while not self.ended:
            try:
                self._frames.put(item, timeout=0.25)
                return True
            except queue.Full:
                continue
        return False

    def execute_cell_input(self, cell_input, allow_stdin=None):
        """Send a cell's code and return the id of the request."""
        self._sent += 1
        request = json.dumps({"id": str(self._sent), "code": cell_input}).encode() + b"\n"
        try:
            self._write.write(request)
            self._write.flush()
        except (OSError, ValueError):
            self._end("the code ended Python itself")
        return str(self._sent)

    def await_reply(self, msg_id, timeout=None):
        """Wait until the request is answered; raise queue.Empty when the time is over or the kernel has ended."""
        deadline = time.monotonic() + timeout
        while True:
            if self.ended:
                raise queue.Empty
            try:
                message, ended = self._frames.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._end(f"it ran longer than {timeout:g} seconds")
                raise
            if message is None:
                self._end(ended)
            elif message["parent_header"]["msg_id"] == msg_id:
                self._iopub.append(message)
                if message["msg_type"] == "status":
                    return

    def get_message(self, stream, timeout=None):
        """Return the next message about a request that was answered."""
        if not self._iopub:
            raise queue.Empty
        return self._iopub.popleft()

    def await_idle(self, parent_id, timeout):
        """Drop what is left of an answered request."""
        self._iopub.clear()

    def is_alive(self):
        """Say whether the kernel can take another request."""
        return not self.ended

    def interrupt(self):
        """Do nothing: a kernel whose time is over has been ended."""

    def stop(self):
        """End the kernel and its process."""
        self._end("stopped")

    def _end(self, why):
        if not self.ended:
            self.ended = why
            self._stop()
            self._reader.join()  # its stream ends with the process
            for stream in (self._write, self._read):
                with contextlib.suppress(OSError):
                    stream.close()


def _message(frame):
    """Return a runner's frame as the Jupyter message that nbval reads; raise where it is none."""
    kind = frame["type"]
    if kind == "idle":
        kind, content = "status", {"execution_state": "idle"}
    elif kind == "show":
        kind, content = "display_data", {"data": {"text/plain": clean(frame["text"])}, "metadata": {}}
    elif kind == "error":
        ename, evalue = (clean(frame[part])[:PRINTED] for part in ("ename", "evalue"))
        content = {
            "ename": ename,
            "evalue": evalue,
            "traceback": [clean(line)[:200] for line in frame["traceback"][-8:]],
        }
    elif kind == "stream":
        name = "stderr" if frame["name"] == "stderr" else "stdout"
        text = clean(frame["text"])[:PRINTED].replace("\b", "")  # nbval undoes backspaces one after the other
        content = {"name": name, "text": text}
    else:
        raise ValueError(kind)
    return {"msg_type": kind, "parent_header": {"msg_id": str(frame["id"])}, "content": content}


def clean(text: str) -> str:
    """Return text that every file can hold: half a surrogate pair is none."""
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} is no text")
    return text.encode("utf-8", "replace").decode()


def start_process() -> Kernel:
    """Start a kernel as a plain child process: for one's own code, on any system."""
    child = subprocess.Popen(
        # Away from the notebook's folder, as in the marking of a class: modules that lie beside it are not handed in.
        [sys.executable, "-P", "-m", "vlib.grading.runner"],
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"},  # as in the marking of a class
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def stop():
        child.kill()
        child.wait()

    return Kernel(child.stdin, child.stdout, stop)


def starter(control: socket.socket, output: int = OUTPUT):
    """Return a function that asks the fork server behind `control` for a kernel."""

    def start():
        ours, its = socket.socketpair()
        leash, hand = os.pipe()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SENDING, 0))
        with ours, its:  # the kernel's two files keep our end open
            try:
                socket.send_fds(control, [b"k"], [its.fileno(), leash])
            finally:
                os.close(leash)
            return Kernel(ours.makefile("wb"), ours.makefile("rb"), lambda: os.close(hand), output)

    return start
