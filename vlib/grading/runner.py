"""Run the code that is marked: the inside of a kernel. Frames of JSON lines go in and come out of one stream.

In:  {"id": ..., "code": ...}
Out: {"id": ..., "type": "stream" | "show" | "error" | "idle", ...}, idle once per request.
Nothing here is trusted: the code that runs can change all of it, and then it has changed only its own answers.
"""

import builtins
import io
import json
import linecache
import sys
import traceback
import types

KEPT = 20_000  # characters of prints kept per cell, for the student to read again


class Prints(io.StringIO):
    """Stand for stdout or stderr and keep the first part of what a cell prints."""

    def write(self, text):
        """Keep `text` up to the limit."""
        super().write(text[: max(0, KEPT - self.tell())])
        return len(text)


class NoShell:
    """Stand for the shell that a notebook's magics speak to: whatever is asked of it, nothing happens."""

    def __getattr__(self, name):
        """Return a function that does nothing."""
        return lambda *args, **kwargs: None


def serve(requests, replies):
    """Run each request of the binary stream `requests`, and write frames to the binary stream `replies`."""
    from . import show

    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    # What a notebook has without an import.
    main.__dict__.update(display=lambda *values, **_: print(*values), get_ipython=NoShell)
    sys.modules["__main__"] = main
    current = None

    def send(frame):
        replies.write(json.dumps({"id": current, **frame}).encode() + b"\n")
        replies.flush()

    show.publish = lambda line: send({"type": "show", "text": line})
    for line in requests:
        request = json.loads(line)
        current, code = request["id"], request["code"]
        sys.stdin = io.StringIO()  # input() ends at once
        sys.stdout, sys.stderr = streams = Prints(), Prints()
        name = f"<{current}>"
        linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
        try:
            exec(compile(code, name, "exec"), main.__dict__)
        except BaseException as e:  # SystemExit and KeyboardInterrupt too: an answer that exits is an answer that fails
            send({"type": "error", "ename": type(e).__name__, "evalue": _brief(e), "traceback": _trace(e)})
        for stream, kind in zip(streams, ("stdout", "stderr"), strict=True):
            if not stream.closed and (text := stream.getvalue()):
                send({"type": "stream", "name": kind, "text": text})
        send({"type": "idle"})


def _brief(error):
    try:
        return str(error)[:2000]
    except Exception as e:
        return f"(its text raises {type(e).__name__})"


def _trace(error):
    """Return the frames of the student's own code only."""
    try:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("<")]
        return [f"{f.name}, line {f.lineno}: {f.line}"[:200] for f in frames[-8:]]
    except Exception:
        return []


if __name__ == "__main__":
    # Replies leave by a copy of fd 1 that prints cannot reach.
    import os

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, out)
