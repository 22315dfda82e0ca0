"""Answers that try to cheat, break or spy. Each attacks the task `mean` (2 of 10 points) in its own way.

SOURCES: name → (source of the answer, points that `mean` deserves). A name that ends in `_spy` shows what it found.
"""

RIGHT = "    return (times[-1] - times[0]) / (len(times) - 1)\n"


def mean(body, before=""):
    return f"{before}\ndef mean_gap(times):\n{body}\n"


def write(frame, times=1):
    """Return an answer that writes a frame of its own to the marker."""
    return mean(
        f"    import os\n    data = memoryview(({frame!r} + chr(10)).encode() * {times})\n"
        "    while data:\n        data = data[os.write(3, data) :]\n    return 1"
    )


SOURCES = {
    "exit": (mean("    import os\n    os._exit(0)"), 0),
    "sys_exit": (mean("    import sys\n    sys.exit(0)"), 0),
    "crash": (mean("    import ctypes\n    return ctypes.string_at(0)"), 0),
    "endless_deaf_loop": (
        mean(
            "    import signal\n    for s in range(1, 65):\n        try:\n            signal.signal(s, signal.SIG_IGN)\n"
            "        except (OSError, ValueError):\n            pass\n"
            "    while True:\n        try:\n            while True:\n                pass\n"
            "        except BaseException:\n            pass"
        ),
        0,
    ),
    "memory_bomb": (mean("    hoard = []\n    while True:\n        hoard.append(bytearray(50_000_000))"), 0),
    "memory_bomb_in_many_processes": (
        mean(
            "    import os, time\n    for _ in range(12):\n        if os.fork() == 0:\n"
            "            x = b'a' * 300_000_000\n            time.sleep(60)\n    time.sleep(60)"
        ),
        0,
    ),
    "memory_in_nameless_files_spy": (
        mean("    import os\n    try:\n        os.memfd_create('x')\n    except OSError as e:\n        return e.errno"),
        0,
    ),
    "shared_memory_bomb": (
        mean(
            "    import mmap\n    hoard = []\n    while True:\n        m = mmap.mmap(-1, 50_000_000)\n"
            "        m.write(b'x' * 50_000_000)\n        hoard.append(m)"
        ),
        0,
    ),
    "fork_bomb": (
        mean(
            "    import os\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass"
        ),
        0,
    ),
    "print_flood": (mean("    for _ in range(200_000):\n        print('x' * 100)\n" + RIGHT), 2),
    "raw_flood": (mean("    import os\n    while True:\n        os.write(3, b'x' * 65536)"), 0),
    "frame_flood": (
        mean(
            '    import os\n    while True:\n        os.write(3, b\'{"id": "1", "type": "show", "text": "1"}\\n\' * 999)'
        ),
        0,
    ),
    "huge_answer": (mean("    return 'x' * 50_000_000"), 0),
    "endless_answer": (mean("    import itertools\n    return itertools.count()"), 0),
    "disk_fill": (
        mean(
            "    try:\n        for i in range(10**6):\n            with open(f'/scratch/{i}', 'wb') as f:\n"
            "                f.write(b'x' * 10**7)\n    except OSError:\n        pass\n" + RIGHT
        ),
        2,
    ),
    "no_stdin": (mean("    return float(input())"), 0),
    "signals_everybody": (
        mean(
            "    import os, signal\n    for pid in (-1, 0, 1, 2, 3, os.getppid()):\n        try:\n"
            "            os.kill(pid, signal.SIGKILL)\n        except OSError:\n            pass\n" + RIGHT
        ),
        2,
    ),
    "new_user_namespace_spy": (
        mean(
            "    import ctypes\n    libc = ctypes.CDLL(None)\n"
            "    return [libc.unshare(f) for f in (0x10000000, 0x20000, 0x40000000, 0x20000000)]"
        ),
        0,
    ),
    "mount_spy": (
        mean("    import ctypes\n    return ctypes.CDLL(None).mount(b'none', b'/scratch', b'tmpfs', 0, None)"),
        0,
    ),
    "privileges_spy": (
        mean(
            "    import os, ctypes\n    libc = ctypes.CDLL(None)\n    got = []\n"
            "    for name in ('setuid', 'setgid'):\n        try:\n            getattr(os, name)(0)\n"
            "            got.append(name)\n        except OSError:\n            pass\n"
            "    for path in ('/', '/usr', '/dev', '/proc', '/work', '/root', '/home', '/etc', '/var'):\n        try:\n"
            "            open(path + '/x', 'w')\n            got.append(path)\n        except OSError:\n            pass\n"
            "    return got"
        ),
        0,
    ),
    "files_spy": (
        mean(
            "    import os\n    found = []\n    for folder, folders, names in os.walk('/'):\n"
            "        folders[:] = [f for f in folders if f not in ('usr', 'lib', 'lib64', 'proc', 'share')]\n"
            "        found += [os.path.join(folder, n) for n in names + folders\n"
            "                  if 'lab01' in n or n in ('secret', 'solutions', 'judges', 'small_lab.py', 'environ')\n"
            "                  or n.endswith('.ipynb')]\n    return found"
        ),
        0,
    ),
    "processes_spy": (mean("    import os\n    return os.listdir('/proc')"), 0),
    "memory_spy": (
        mean(
            "    import gc, sys\n    mark = 'expec' + 'ted'\n"
            "    return sum(1 for o in gc.get_objects() if type(o) is dict and mark in o and 'seed' in o)"
        ),
        0,
    ),
    "forged_show": (mean("    import vlib.grading.show as s\n    s.publish = lambda line: None\n    return 1"), 0),
    "forged_canonical": (
        mean("    import vlib.grading.show as s\n    s.canonical = lambda v: 'true'\n    return 1"),
        0,
    ),
    "forged_idle": (
        mean(
            "    import os, json\n    os.write(3, json.dumps({'id': '3', 'type': 'idle'}).encode() + b'\\n')\n"
            "    return 1"
        ),
        0,
    ),
    "suppressed_idle": (mean("    import os\n    os.close(3)\n    return 1"), 0),
    "nonsense_frames": (mean("    import os\n    os.write(3, b'[[[[\\n')\n    return 1"), 0),
    "deep_frames": (mean("    import os\n    os.write(3, b'[' * 100_000 + b'\\n')\n    return 1"), 0),
    "forged_end": (write('{"id": "1", "type": "ended", "why": ""}', 5000), 0),
    "forged_end_without_reason": (write('{"id": "1", "type": "ended"}'), 0),
    "nested_text": (write('{"id": "3", "type": "show", "text": ' + "[" * 940 + "]" * 940 + "}"), 0),
    "text_of_a_wrong_type": (write('{"id": "3", "type": "error", "ename": [1], "evalue": {}, "traceback": 3}'), 0),
    "endless_trace": (
        write('{"id": "3", "type": "error", "ename": "E", "evalue": "e", "traceback": ["' + "z" * 900_000 + '"]}'),
        0,
    ),
    "backspaces": (  # nbval takes them back one at a time
        write('{"id": "3", "type": "stream", "name": "stdout", "text": "' + "a" * 60_000 + "\\b" * 60_000 + '"}'),
        0,
    ),
    "system_memory_spy": (
        mean(
            "    import ctypes\n    libc = ctypes.CDLL(None)\n"
            "    return [libc.semget(0, 32000, 0o1600), libc.msgget(0, 0o1600)]"
        ),
        0,
    ),
    "session_spy": (
        mean(
            "    import os\n    pid = os.fork()\n    if pid == 0:\n        try:\n            os.setsid()\n"
            "        finally:\n            os._exit(os.getsid(0) == os.getpid())\n    return os.waitpid(pid, 0)[1]"
        ),
        0,
    ),
    "half_surrogates": (mean("    print('\\udc80')\n    return '\\ud800'"), 0),
    "patched_builtins": (
        mean(
            "    import builtins, json\n    builtins.sorted = builtins.len = builtins.isinstance = lambda *a, **k: True\n    json.dumps = lambda *a, **k: 'null'\n    return 1"
        ),
        0,
    ),
    "patched_numpy": (  # not executed: no answer needs it
        mean(
            "    return 0.5245881817832697",
            "np.random.default_rng = lambda seed: np.random.Generator(np.random.PCG64(0))",
        ),
        0,
    ),
    "patched_numpy_in_a_function": (
        "import numpy\ndef _patch():\n    numpy.random.default_rng = lambda s, g=numpy.random.default_rng: g(0)\n    return 3\n"
        "DONE = _patch()\ndef mean_gap(times):\n    DONE\n" + RIGHT,
        0,
    ),
    "patched_ipython": (
        mean(
            "    from IPython.core.interactiveshell import InteractiveShell\n    InteractiveShell.showtraceback = lambda *a, **k: None\n    raise ValueError"
        ),
        0,
    ),
    "hidden_traceback": (
        mean(
            "    class Sly(BaseException):\n        def __str__(self):\n            raise RuntimeError\n    raise Sly"
        ),
        0,
    ),
    "late_thread": (
        mean(
            "    import threading, time, os\n    def later():\n        while True:\n            time.sleep(0.01)\n            print('late')\n"
            "    threading.Thread(target=later).start()\n" + RIGHT
        ),
        2,
    ),
    "late_process": (
        mean("    import os, time\n    if os.fork() == 0:\n        time.sleep(3600)\n        os._exit(0)\n" + RIGHT),
        2,
    ),
    "equal_to_all": (
        mean(
            "    class Any(float):\n        def __eq__(self, other):\n            return True\n        __hash__ = float.__hash__\n    return Any(1)"
        ),
        0,
    ),
    "nbval_markers": (mean("    # NBVAL_SKIP\n    return 1", "# NBVAL_IGNORE_OUTPUT\n# NBVAL_SKIP"), 0),
    "markup": (mean("    print('<script>alert(1)</script>')\n    return '</pre><script>alert(2)</script>'"), 0),
    "markup_in_error": (mean("    raise ValueError('<img src=x onerror=alert(3)>')"), 0),
    "own_verdict": (mean("    return {'fraction': 1, 'earned': 2}"), 0),
    "seed_reader": (mean("    import __main__\n    __main__.SEED = 0\n    return 0.5245881817832697"), 0),
}

# Answers to the judged task `evict` (4 points): what a judge must survive.
JUDGED = {
    "nan": "def victims(pages, room):\n    return float('nan')",
    "huge_number": "def victims(pages, room):\n    return [10**4000] * room",
    "huge_list": "def victims(pages, room):\n    return list(range(100_000))",
    "nested": "def victims(pages, room):\n    x = []\n    for _ in range(45):\n        x = [x]\n    return x",
    "strings": "def victims(pages, room):\n    return ['__import__(\"os\")._exit(0)', \"'''\"]",
    "booleans": "def victims(pages, room):\n    return [True] * room",
    "infinite": "def victims(pages, room):\n    return [float('inf')] * room",
}
