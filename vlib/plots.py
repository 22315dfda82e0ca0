"""Views: each takes a trace or plain numbers and an optional Axes, draws, and returns the Axes.

The colours can be told apart by colour-blind readers and keep a contrast of at least 3 : 1 on white and on black.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

BLUE, RED, GREEN, PURPLE, GREY = "#2a7ab9", "#d55e00", "#11946f", "#b5629b", "#808080"
COLOURS = (BLUE, RED, GREEN, PURPLE, GREY)


def axes(title: str, xlabel: str = "", ylabel: str = "", ax=None):
    """Return Axes with a title and labels, new ones unless given.

    >>> axes("An empty figure", "time (s)").get_xlabel()
    'time (s)'
    """
    if ax is None and ylabel:  # margins that fit: to work them out takes as long as to draw, too long for a slider
        figure = plt.figure(layout="none")
        figure.subplots_adjust(left=0.15, right=0.97, bottom=0.17, top=0.9)
        ax = figure.subplots()
    elif ax is None:
        ax = plt.figure(layout="constrained").subplots()
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def panels(count: int) -> list:
    """Return Axes one above the other that share their x axis.

    >>> len(panels(2))
    2
    """
    figure = plt.figure(figsize=(4.8, 0.6 + 1.9 * count), layout="constrained")
    return list(figure.subplots(count, sharex=True))


def series(
    x,
    lines: Mapping[str, Sequence],
    title: str,
    xlabel: str,
    ylabel: str,
    ax=None,
    step: bool = False,
    log: bool = False,
    top: float | None = None,
    **marks,
):
    """Draw lines over a common x, each labelled at its end; `marks` are labelled vertical lines at some x.

    A NaN leaves a gap; `log` makes the y axis logarithmic; `top` fixes its upper end, so that pictures can be compared.

    >>> series([0, 1], {"a": [1, 2], "b": [2, 1]}, "Two lines", "x (s)", "y (MB)").get_title(loc="left")
    'Two lines'
    """
    ax = axes(title, xlabel, ylabel, ax)
    for (name, y), colour in zip(lines.items(), COLOURS, strict=False):
        ax.plot(x, y, color=colour, drawstyle="steps-post" if step else "default", label=name)
    if log:
        ax.set_yscale("log", subs=[2, 5])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    if top:
        ax.set_ylim(top=top, **({} if log else {"bottom": 0}))
    for name, at in marks.items():
        ax.axvline(at, color=GREY, linestyle=":", linewidth=1)
        ax.annotate(
            name.replace("_", " "), (at, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=9, color=GREY,
        )  # fmt: skip
    _label_ends(ax, lines, x)
    return ax


def stacked_bars(labels: Sequence, parts: Mapping[str, Sequence], title: str, xlabel: str, ylabel: str, ax=None):
    """Draw one bar for each label, made of the parts.

    >>> stacked_bars([1, 2], {"sent": [5, 1], "skipped": [1, 0]}, "Rounds", "round", "pages").get_ylabel()
    'pages'
    """
    ax = axes(title, xlabel, ylabel, ax)
    at, base = np.arange(len(labels)), np.zeros(len(labels))
    for (name, height), colour in zip(parts.items(), COLOURS, strict=False):
        ax.bar(at, height, bottom=base, color=colour, label=name, width=0.7)
        base = base + np.asarray(height, float)
    every = -(-len(labels) // 14)  # more labels would run into each other
    ax.set_xticks(at[::every], [str(label) for label in labels[::every]])
    if len(parts) > 1:
        ax.figure.subplots_adjust(bottom=0.3)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, frameon=False, fontsize=9)
    return ax


def page_grid(states, names: Sequence[str], title: str, ax=None):
    """Draw each page as one cell, row after row, coloured by its state: `states` are indices into `names`.

    >>> page_grid([0, 1, 1, 0], ["clean", "dirty"], "Four pages").get_title(loc="left")
    'Four pages'
    """
    ax = axes(title, ax=ax)
    states = np.asarray(states)
    if states.size == 0 or states.min() < 0 or states.max() >= min(len(names), len(COLOURS)):
        raise ValueError(
            f"states go from {states.min(initial=0)} to {states.max(initial=0)}, allowed: 0 to {len(names) - 1}"
        )
    width = int(np.ceil(np.sqrt(states.size * 2)))
    cells = np.full(width * -(-states.size // width), np.nan)
    cells[: states.size] = states
    shades = plt.matplotlib.colors.ListedColormap(["#b0b0b0", *COLOURS[: len(names) - 1]])
    ax.imshow(cells.reshape(-1, width), cmap=shades, vmin=-0.5, vmax=len(names) - 0.5, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    patches = [plt.matplotlib.patches.Patch(color=shades(i)) for i in range(len(names))]
    counts = [int((states == i).sum()) for i in range(len(names))]
    labels = [f"{name}: {count:,}" for name, count in zip(names, counts, strict=True)]
    ax.legend(patches, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False, fontsize=9)
    return ax


def timeline(lanes: Mapping[str, Sequence[tuple]], title: str, xlabel: str = "time (ms)", scale: float = 1000, ax=None):
    """Draw lanes of spans ``(start, end, what)``; times are divided by `scale`; the same `what` has the same colour.

    >>> timeline({"A": [(0, 5000, "runs")], "B": [(6000, 9000, "runs")]}, "Who runs the guest").get_xlabel()
    'time (ms)'
    """
    ax = axes(title, xlabel, ax=ax)
    kinds = list(dict.fromkeys(what for spans in lanes.values() for *_, what in spans))
    for lane, spans in enumerate(lanes.values()):
        for start, end, what in spans:
            colour = COLOURS[kinds.index(what) % len(COLOURS)]
            ax.barh(lane, (end - start) / scale, left=start / scale, height=0.6, color=colour)
    ax.set_yticks(range(len(lanes)), lanes)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(left=False)
    patches = [plt.matplotlib.patches.Patch(color=COLOURS[i % len(COLOURS)]) for i in range(len(kinds))]
    ax.legend(patches, kinds, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False, fontsize=9)
    return ax


def rounds(trace, title: str = "What each round sends", ax=None):
    """Draw what each round of a migration sent or skipped, in MB; where the first would dwarf the others it is cut.

    >>> from vlib.migration import Round
    >>> rounds([Round(0, 9, "stop-and-copy", 1, 1000, 4096000, 0, 0, 0, 0)]).get_ylabel()
    'MB'
    """
    page = 4096 / 1e6
    trace = [r for r in trace if r.phase in ("pre-copy", "stop-and-copy")]
    labels = ["stop" if r.phase == "stop-and-copy" else str(i) for i, r in enumerate(trace, 1)]
    sent = np.array([r.sent * page for r in trace])
    skipped = np.array([r.skipped * page for r in trace])
    stopped = np.array([r.phase == "stop-and-copy" for r in trace])
    parts = {
        "sent, guest runs": sent * ~stopped,
        "sent, guest stopped": sent * stopped,
        "skipped, dirty again": skipped,
    }
    ax = stacked_bars(labels, {name: part for name, part in parts.items() if part.any()}, title, "round", "MB", ax)
    height = sent + skipped
    top = 1.4 * height[1:].max(initial=0) or height[0]
    if height[0] > 2 * top:
        ax.set_ylim(0, top)
        ax.annotate(
            f"{_short(height[0])} MB, cut", (0.5, 0.97), xycoords=("data", "axes fraction"), va="top", fontsize=9
        )
    return ax


def sequence(trace, hosts: Sequence[str] = ("A", "B"), title: str = "Messages between the hosts", ax=None):
    """Draw the events of a handover from top to bottom, with their times in ms and the stages that they belong to.

    An arrow that ends in a cross is a message lost; a host's line is thick while it runs the guest.

    >>> from vlib.handover import handover
    >>> sequence(handover()).get_title(loc="left")
    'Messages between the hosts'
    """
    events = [event for event in trace if event.host]
    if ax is None:
        ax = plt.figure(figsize=(4.8, 0.9 + 0.19 * len(events)), layout="constrained").subplots()
    axes(title, ax=ax)
    for x, host in enumerate(hosts):
        ax.plot([x, x], [-0.5, len(events)], color=GREY, linewidth=1, zorder=0)
        for first, last in _spans(events, host):
            ax.plot([x, x], [first, last], color=GREEN, zorder=1, linewidth=7, solid_capstyle="butt")
    stage = None
    for row, event in enumerate(events):
        ax.text(-0.42, row, f"{event.time / 1000:g}", va="center", ha="right", fontsize=8, color=GREY)
        if event.stage != stage:
            stage = event.stage
            ax.text(1.72, row, f"Stage {stage}", va="center", ha="right", fontsize=8, color=GREY)
        if event.what == "send":
            _arrow(ax, row, hosts.index(event.host), event)
        else:
            here = hosts.index(event.host)
            words = f"{event.what} {event.message}".strip()
            ax.text(
                here + (0.05 if here else -0.05), row, words, va="center", ha="left" if here else "right", fontsize=8
            )
    ax.set_xticks(range(len(hosts)), [f"host {host}" for host in hosts])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks([])
    ax.set_ylabel("time (ms)", color=GREY)
    ax.spines[:].set_visible(False)
    ax.set_xlim(-0.6, 1.75)
    ax.set_ylim(len(events), -0.8)
    return ax


def _spans(events, host):
    """Return the rows from and to which the host runs the guest."""
    since, found = None, []
    for row, event in enumerate(events):
        if event.host == host and event.what in ("runs", "resumes"):
            since = row
        elif event.host == host and event.what in ("suspends", "releases", "loses") and since is not None:
            found.append((since, row))
            since = None
    return found if since is None else [*found, (since, len(events))]


def _arrow(ax, row, here, event):
    """Draw a message from one host to the other, or half of the way and a cross."""
    there = 1 - here if event.delivered else 0.5
    colour = BLUE if event.delivered else RED
    head = ("<" if here else ">") if event.delivered else "x"
    tip = there + 0.04 * np.sign(here - there) if event.delivered else there  # beside the host's bar, not under it
    ax.plot([here, tip], [row, row], color=colour, linewidth=1, marker=head, markersize=5, markevery=[1])
    words = event.message
    if not event.delivered:
        words += " (lost)"
    ax.text((here + there) / 2, row - 0.08, words, va="bottom", ha="center", fontsize=8, color=colour)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _label_ends(ax, lines, x):
    """Write each line's name beside its end, or a legend where two ends are too close to each other."""
    if len(lines) < 2:
        return
    low, high = ax.get_ylim()
    ends = sorted(ax.transData.transform([(x[-1], y[-1]) for y in lines.values()])[:, 1])
    if np.diff(ends).min() < 0.07 * ax.bbox.height or not np.isfinite(ends).all():
        ax.legend(frameon=False, fontsize=9)
        return
    ax.set_ylim(low, high)
    if not ax.figure.get_constrained_layout():
        ax.figure.subplots_adjust(right=0.96 - 0.015 * max(map(len, lines)))
    for (name, y), colour in zip(lines.items(), COLOURS, strict=False):
        ax.annotate(name, (x[-1], y[-1]), (4, 0), textcoords="offset points", va="center", fontsize=9, color=colour)
