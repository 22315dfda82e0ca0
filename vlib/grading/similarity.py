"""Find pairs of answers that share their code's shape, names and layout aside, by winnowed fingerprints."""

import io
import keyword
import tokenize
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import combinations

from .notebook import Lab

GRAM = 8  # tokens in one fingerprint: shorter ones coincide by chance
WINDOW = 4
FEWEST = 10  # fingerprints below which an answer is too short to say anything
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER}
STANDS_FOR = {tokenize.NUMBER: "0", tokenize.STRING: "''"}


@dataclass(frozen=True)
class Pair:
    """Two students whose answers to a task are alike."""

    task: str
    one: str
    other: str
    share: float  # of the fingerprints of the shorter answer
    sources: tuple[str, str] = field(repr=False)


def fingerprints(source: str) -> set[int]:
    """Return the fingerprints of a piece of Python: of every few neighbouring runs of tokens, the smallest hash.

    >>> fingerprints("def f(a):\\n    return a + 1\\n" * 3) == fingerprints("def g(b):\\n    return b + 2\\n" * 3)
    True
    """
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                tokens.append("name")
            elif token.type not in SKIPPED:
                tokens.append(STANDS_FOR.get(token.type, token.string.strip() or str(token.type)))
    except (tokenize.TokenError, SyntaxError):
        pass  # what was read up to here
    grams = [hash(tuple(tokens[i : i + GRAM])) for i in range(len(tokens) - GRAM + 1)]
    return {min(grams[i : i + WINDOW]) for i in range(max(1, len(grams) - WINDOW + 1))} if grams else set()


def similar(sources: dict[str, dict[str, str]], lab: Lab, threshold: float = 0.8) -> list[Pair]:
    """Return the pairs of students whose answers to a task share at least `threshold`, the most alike first.

    `sources` gives each student's source for each task. What the lab itself has, and what a quarter of the class
    has, counts for nobody.
    """
    pairs = []
    for task in lab.tasks:
        if lab.predicts(task) or not lab.of(task, "check"):
            continue
        given = set().union(*(fingerprints(c.source) for c in lab.of(task, "answer")))
        prints = {student: fingerprints(by_task.get(task, "")) - given for student, by_task in sources.items()}
        common = Counter(p for found in prints.values() for p in found)
        most = max(4, len(prints) // 4)
        holders = defaultdict(list)
        kept = {}
        for student, found in sorted(prints.items()):
            kept[student] = {p for p in found if common[p] <= most}
            if len(kept[student]) >= FEWEST:
                for p in kept[student]:
                    holders[p].append(student)
        shared = Counter(pair for students in holders.values() for pair in combinations(students, 2))
        for (one, other), count in shared.items():
            share = count / min(len(kept[one]), len(kept[other]))
            if share >= threshold:
                pairs.append(Pair(task, one, other, share, (sources[one][task], sources[other][task])))
    return sorted(pairs, key=lambda p: (-p.share, p.task, p.one, p.other))
