"""Hand a running VM from host A to host B over a link that may lose any message.

The six stages of live migration [Clark05], as two state machines that know only what they are told:

0. pre-migration: the VM runs on A.
1. reservation: ``reserve``, ``reserved`` or ``refused``. A failure leaves the VM on A.
2. iterative pre-copy: ``pages k``, ``got k``. A failure leaves it on A.
3. stop-and-copy: A suspends the VM; ``last``. A failure leaves it on A, which resumes it.
4. commitment: ``ready`` from B; A commits; ``commit``. A failure leaves it on A or, once A has committed, in doubt.
5. activation: B runs the VM; ``running``, ``released``. A failure leaves it on B or, under post-copy, loses it.

At most one host runs the VM, whatever is lost. The argument is three rules:

1. A commits once, and only after ``ready``. Until then it may resume and need ask nobody; from then on, never.
2. B runs the VM only once it knows that A has committed.
3. After ``ready``, B decides nothing alone: silence may mean "A has resumed" or "A has committed". So B asks again.

The price is to be *in doubt*: A has committed, B cannot know, neither runs. Over the link alone nothing avoids this
(two generals); repeating ends it when the link heals. A lock on the shared disk, reached without the link, ends it
sooner: A commits by writing "B" into it, B in doubt writes "A", and whatever was written first stands.

Left out: crashes, messages that overtake each other, and a post-copy VM that waits until its link is repaired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from heapq import heappop, heappush
from itertools import count, pairwise
from typing import NamedTuple


class Event(NamedTuple):
    """Record one step of a handover: a message sent, or something that a host does.

    ``what`` is ``send``, or ``runs``, ``suspends``, ``resumes``, ``reserves``, ``ready`` (B holds what it needs to run
    the VM), ``commits``, ``lock`` (``message``: the host that the lock names), ``releases`` (its memory), ``loses``
    (the VM). The last event is ``rest`` (nothing is pending) or ``horizon`` (something is). Stages: [Clark05] Fig. 1.

    >>> Event(0, "A", 1, "send", "reserve", number=1, arrives=500, delivered=True).what
    'send'
    """

    time: int  #: µs
    host: str  #: "A" or "B"; "" for the last event
    stage: int  #: 0 to 5
    what: str
    message: str = ""
    number: int = 0  #: which transmission on the link this is, from 1; 0 unless ``send``
    arrives: int = 0  #: µs; of a lost message, when it would have arrived
    delivered: bool = False


class Span(NamedTuple):
    """Say which hosts run the VM from ``start`` until before ``end`` (µs): "A", "B", "" or, wrongly, "AB".

    >>> Span(15_000, 18_500, "").hosts
    ''
    """

    start: int
    end: int
    hosts: str


@dataclass(frozen=True)
class Protocol:
    """Choose the rules of the handover: every deviation is off, and any one of them makes the protocol wrong.

    >>> Protocol(b_runs_before_commit=True) == MUTANTS["b_runs_before_commit"]
    True
    """

    a_resumes_after_commit: bool = False  #: hears no ``running``: takes the VM back
    a_retries_after_commit: bool = False  #: hears no ``running``: starts over at Stage 1, as if nothing were committed
    a_commits_without_ready: bool = False  #: hears no ``ready``: supposes that ``last`` has arrived
    b_runs_before_commit: bool = False  #: runs the VM as soon as it is ready
    b_takes_silence_for_commit: bool = False  #: hears no answer to ``ready``: runs the VM
    b_takes_silence_for_abort: bool = False  #: hears no answer to ``ready``: throws its copy away
    b_runs_on_every_commit: bool = False  #: hears ``commit`` again: starts the VM again
    b_keeps_reservation: bool = False  #: after a failure: never releases the memory that it set aside


MUTANTS = {rule.name: Protocol(**{rule.name: True}) for rule in fields(Protocol)}


class _Handover:
    """Run A and B, two generators that yield how long they will wait for a message (None: for ever)."""

    def __init__(self, losses, rules, lock, refuse, postcopy, copying, latency, timeout, tries):
        self.lost, self.down = losses
        self.rules, self.has_lock, self.refuse, self.postcopy = rules, lock, refuse, postcopy
        self.copying, self.latency, self.timeout, self.tries = copying, latency, timeout, tries
        self.now, self.sent, self.owner = 0, 0, None
        self.trace, self.queue, self.order = [], [], count()

    def run(self, horizon):
        hosts, timers = {"B": self.destination(), "A": self.source()}, {}

        def wake(name, message):
            wait = hosts[name].send(message)
            timers[name] = next(self.order)  # a host has one timer: this makes any older one void
            if wait is not None:
                heappush(self.queue, (self.now + wait, timers[name], name, None))

        for name in hosts:
            wake(name, None)
        while self.queue:
            time, ticket, name, message = heappop(self.queue)
            if message is None and ticket != timers[name]:
                continue
            if time > horizon:
                return [*self.trace, Event(horizon, "", self.trace[-1].stage, "horizon")]
            self.now = time
            wake(name, message)
        end = max(event.arrives for event in self.trace)  # nothing happens after the last message is there, or lost
        return [*self.trace, Event(max(self.now, end), "", self.trace[-1].stage, "rest")]

    def note(self, host, stage, what, message=""):
        self.trace.append(Event(self.now, host, stage, what, message))

    def takes(self, message):
        """How long the link is busy with a message: memory takes its time, all else is short."""
        if message.startswith("pages"):
            return self.copying[int(message.split()[1]) - 1]
        return self.copying[-1] if message == "last" and not self.postcopy else 0

    def send(self, host, stage, message):
        self.sent += 1
        arrives = self.now + self.takes(message) + self.latency
        cut = any(start < arrives and (end is None or self.now < end) for start, end in self.down)
        delivered = not cut and self.sent not in self.lost
        self.trace.append(Event(self.now, host, stage, "send", message, self.sent, arrives, delivered))
        if delivered:
            heappush(self.queue, (arrives, next(self.order), "B" if host == "A" else "A", message))

    def ask(self, host, stage, message, answers, tries=None):
        """Send until an answer comes, waiting twice as long each time; after ``tries`` (None: never) give up."""
        wait = self.takes(message) + self.takes(answers[0]) + self.timeout
        for _ in range(tries) if tries else count():
            self.send(host, stage, message)
            deadline = self.now + wait
            while self.now < deadline:
                answer = yield deadline - self.now
                if answer in answers:
                    return answer
            wait *= 2
        return None

    def decide(self, host, owner):
        """Write the owner into the lock unless it names one (compare-and-set); return whom it names."""
        if self.has_lock:
            self.owner = self.owner or owner
            self.note(host, 4, "lock", self.owner)
        return self.owner or owner

    def source(self):
        """Host A, which has the VM until it commits."""
        rules = self.rules
        patience = self.tries if rules.a_resumes_after_commit or rules.a_retries_after_commit else None
        self.note("A", 0, "runs")
        suspended = False
        while True:
            stage, answer = yield from self.transfer(suspended)
            suspended = suspended or stage == 3
            if answer == "running":
                yield from self.serve(answer)
            guesses = stage == 3 and rules.a_commits_without_ready
            if not (answer == "ready" or guesses) or self.decide("A", "B") != "B":
                break
            self.note("A", 4, "commits")  # rule 1: from here on A can only say so, again and again
            answer = yield from self.ask("A", 4, "commit", ("running", "fetch 1"), patience)
            if answer:
                yield from self.serve(answer)
            if rules.a_resumes_after_commit:
                break
        if suspended:
            self.note("A", stage, "resumes")
        self.send("A", stage, "abort")
        while True:
            if (yield None) == "ready":  # the abort was lost: B still asks
                self.send("A", 4, "abort")

    def transfer(self, suspended):
        """Take A through Stages 1 to 3; return the stage reached and B's last answer there."""
        rounds = 0 if self.postcopy else len(self.copying) - 1
        steps = [(1, "reserve", "reserved"), *((2, f"pages {k + 1}", f"got {k + 1}") for k in range(rounds))]
        for stage, message, good in [*steps, (3, "last", "ready")]:
            if stage == 3 and not suspended:
                self.note("A", 3, "suspends")
            late = ("running",) if suspended else ()  # a mutant that retries may hear that it need not
            answer = yield from self.ask("A", stage, message, (good, "refused", *late), self.tries)
            if answer != good:
                break
        return stage, answer

    def serve(self, message):
        """Stage 5 on A: send the pages that B fetches (post-copy); release the memory when B needs no more of it."""
        while message != "running":
            if message.startswith("fetch"):
                self.send("A", 5, message.replace("fetch", "pages"))
            message = yield None
        self.note("A", 5, "releases")
        while True:
            if message == "running":
                self.send("A", 5, "released")
            message = yield None

    def destination(self):
        """Host B, which holds nothing until it is asked."""
        while True:
            message = yield None
            if message == "reserve" and not self.refuse:
                yield from self.hold()
            elif message != "abort":
                self.send("B", 1, "refused")

    def hold(self):
        """Take B from the reservation to activation; return only after a failure, with the memory released."""
        rules = self.rules
        self.note("B", 1, "reserves")
        stage, message = 1, "reserve"
        patience = (max(self.copying) + self.timeout) * 2**self.tries  # longer than A is silent while it still tries
        while message == "reserve" or (message or "").startswith("pages"):
            stage = 1 if message == "reserve" else 2
            self.send("B", stage, "reserved" if message == "reserve" else message.replace("pages", "got"))
            message = yield patience
        if message == "last":
            stage = 4
            self.note("B", 3, "ready")
            if rules.b_runs_before_commit:
                self.note("B", 5, "runs")
            guesses = rules.b_takes_silence_for_commit or rules.b_takes_silence_for_abort
            patience = self.tries if self.has_lock or guesses else None  # rule 3: ask, never guess
            answer = yield from self.ask("B", 4, "ready", ("commit", "abort"), patience)
            if answer is None and (rules.b_takes_silence_for_commit if guesses else self.decide("B", "A") == "B"):
                answer = "commit"
            if answer == "commit":
                stage = 5
                yield from self.activate()
        if not rules.b_keeps_reservation:
            self.note("B", stage, "releases")

    def activate(self):
        """Stage 5 on B: run the VM; under post-copy fetch its memory too, and return if that fails."""
        if not self.rules.b_runs_before_commit:
            self.note("B", 5, "runs")
        for k in range(1, len(self.copying) + 1) if self.postcopy else ():
            if (yield from self.ask("B", 5, f"fetch {k}", (f"pages {k}",), self.tries)) is None:
                self.note("B", 5, "loses")  # what B has written is not on A, and what A still holds is not on B
                return
        answers = ("released", "commit") if self.rules.b_runs_on_every_commit else ("released",)
        while (yield from self.ask("B", 5, "running", answers)) == "commit":
            self.note("B", 5, "runs")
        while True:
            yield None


def handover(
    losses: Sequence = (),
    *,
    protocol: Protocol = Protocol(),
    lock: bool = False,
    refuse: bool = False,
    scheme: str = "precopy",
    copying: Sequence[int] = (8_000, 4_000, 2_000),
    latency: int = 500,
    timeout: int = 5_000,
    tries: int = 3,
    horizon: int = 1_000_000,
) -> list[Event]:
    """Hand the VM from A to B while the link loses what ``losses`` says, and return the trace.

    ``losses`` is plain data: a number n loses the n-th transmission (from 1; repetitions count), a pair
    ``[start, end]`` is a link down from ``start`` until before ``end`` (µs; None: for ever), which loses all that is
    on it. ``lock``: a lock on the shared disk decides doubt. ``refuse``: B has no room. ``copying``: µs that each
    pre-copy round takes, the last one with the VM suspended; under "postcopy", each part that B fetches. ``latency``:
    µs one way. ``timeout``: µs of waiting, beyond the copying, before the first repetition. ``tries``: transmissions
    before a host that may give up does. ``horizon``: µs after which the run is cut. Raises ValueError for all else.
    Source: [Clark05] Stages 0 to 5; post-copy [Hines09].

    >>> [event.message for event in handover(copying=[2_000]) if event.what == "send"]
    ['reserve', 'reserved', 'last', 'ready', 'commit', 'running', 'released']
    >>> outcome(handover([[17_000, None]]))  # the link dies under the last pages
    'on A'
    >>> outcome(handover([[18_000, None]])), outcome(handover([[18_000, None]], lock=True))
    ('in doubt', 'on B')
    """
    if scheme not in ("precopy", "postcopy"):
        raise ValueError(f"scheme is {scheme!r}; allowed: 'precopy', 'postcopy'")
    if not isinstance(copying, list | tuple) or not copying:
        raise ValueError(f"copying is {copying!r}; allowed: a list of at least one integer from 0")
    _check("latency", latency, 1)
    _check("timeout", timeout, 2 * latency + 1)  # an answer needs two latencies
    _check("tries", tries, 1)
    _check("horizon", horizon, 1)
    for i, takes in enumerate(copying):
        _check(f"copying[{i}]", takes, 0)
    postcopy = scheme == "postcopy"
    return _Handover(_split(losses), protocol, lock, refuse, postcopy, copying, latency, timeout, tries).run(horizon)


def _is_int(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check(name, value, least):
    if not _is_int(value, least):
        raise ValueError(f"{name} is {value!r}; allowed: an integer from {least}")


def _split(losses):
    """Split a schedule of losses into a set of numbers and a list of pairs."""
    if not isinstance(losses, list | tuple):
        raise ValueError(f"losses is {losses!r}; allowed: a list of numbers and [start, end] pairs")
    numbers, down = set(), []
    for i, loss in enumerate(losses):
        match loss:
            case [start, end] if _is_int(start, 0) and (end is None or _is_int(end, start + 1)):
                down.append((start, end))
            case number if _is_int(number, 1):
                numbers.add(number)
            case _:
                allowed = "an integer from 1, or [start, end] with integers 0 <= start < end (end may be None)"
                raise ValueError(f"losses[{i}] is {loss!r}; allowed: {allowed}")
    return numbers, down


def _states(trace):
    """After each event: the event, the hosts that run the VM, and those that hold a copy that may be run."""
    runs, holds = set(), set()
    for event in trace:
        if event.what in ("runs", "resumes", "ready"):
            holds = holds | {event.host}
        if event.what in ("runs", "resumes"):
            runs = runs | {event.host}
        if event.what in ("commits", "releases", "loses"):
            holds = holds - {event.host}
        if event.what in ("suspends", "releases", "loses"):
            runs = runs - {event.host}
        yield event, runs, holds


def running(trace: Sequence[Event]) -> list[Span]:
    """Return who runs the VM when, as adjoining spans that cover the trace.

    >>> [tuple(span) for span in running(handover())]
    [(0, 15000, 'A'), (15000, 18500, ''), (18500, 19500, 'B')]
    """
    spans = []
    for (event, runs, _), (after, *_) in pairwise(_states(trace)):
        hosts = "".join(sorted(runs))
        if spans and spans[-1].hosts == hosts:
            spans[-1] = spans[-1]._replace(end=after.time)
        elif after.time > event.time:
            spans.append(Span(event.time, after.time, hosts))
    return spans


def outcome(trace: Sequence[Event]) -> str:
    """Return where the VM is at the end: "on A", "on B", "on both", "in doubt" (it may still run) or "lost".

    >>> outcome(handover(refuse=True)), outcome(handover([[19_000, None]], scheme="postcopy"))
    ('on A', 'lost')
    """
    *_, (_, runs, holds) = _states(trace)
    if runs:
        return "on both" if len(runs) == 2 else f"on {min(runs)}"
    return "in doubt" if holds else "lost"


def violations(trace: Sequence[Event]) -> list[str]:
    """Return what no loss excuses: "split brain", "started twice", "lost", "leak".

    "started twice": the VM is started where it runs already. "lost": no host may run it any more, and none says so.
    "leak": all is over, B does not run the VM and yet keeps memory for it.

    >>> violations(handover([[18_000, None]], protocol=MUTANTS["b_takes_silence_for_abort"]))
    ['lost']
    """
    states = list(_states(trace))
    kept = [event.what for event in trace if event.host == "B" and event.what in ("reserves", "releases")]
    found = {
        "split brain": any(span.hosts == "AB" for span in running(trace)),
        "started twice": any(e.what == "runs" and e.host in runs for (_, runs, _), (e, *_) in pairwise(states)),
        "lost": outcome(trace) == "lost" and all(event.what != "loses" for event in trace),
        "leak": trace[-1].what == "rest" and kept[-1:] == ["reserves"] and "B" not in states[-1][1],
    }
    return [name for name, wrong in found.items() if wrong]


def verdicts(losses: Sequence, **settings) -> dict[str, list[str]]:
    """Try a schedule on the right protocol and on every mutant; return the violations of each by name.

    ``settings`` are those of ``handover``; the right protocol is called "right".

    >>> [name for name, wrong in verdicts([[2_000, None]]).items() if wrong]
    ['b_keeps_reservation']
    """
    protocols = {"right": Protocol(), **MUTANTS}
    return {name: violations(handover(losses, protocol=rules, **settings)) for name, rules in protocols.items()}
