"""Speed of error counts beside other packages: the same pairs, in one run.

    pip install -r benchmarks/requirements-scoring.txt
    python -m benchmarks.scoring
    python -m benchmarks.scoring REF HYP     # two files of lines "id text", in the same order

A package that is not installed is left out, and a line says so. Ours is what ``asr score`` computes of texts that are
read: word and character errors by kind, and the 95 % intervals of both rates. The others count the kinds of word errors
(and where it says so, characters), without intervals. Times are processor time by turns, on one thread.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from asr.scoring.wer import score
from benchmarks.turns import by_turns, machine, ratio, table, version_of

Pairs = Sequence[tuple[str, str]]
Kinds = tuple[int, int, int]  # substitutions, deletions, insertions of words
Way = Callable[[Pairs], Kinds]

OURS = "this project: words, characters, intervals"


def ours() -> Way:
    """Return this project's score."""

    def count(pairs: Pairs) -> Kinds:
        wer = score((str(i), *pair) for i, pair in enumerate(pairs)).wer
        return wer.substitutions, wer.deletions, wer.insertions

    return count


def rapidfuzz() -> Way:
    """Return a loop over rapidfuzz's edit operations of each pair."""
    from rapidfuzz.distance import Levenshtein

    def count(pairs: Pairs) -> Kinds:
        found: Counter[str] = Counter()
        for reference, hypothesis in pairs:
            found.update(one.tag for one in Levenshtein.editops(reference.split(), hypothesis.split()))
        return found["replace"], found["delete"], found["insert"]

    return count


def jiwer() -> Way:
    """Return jiwer's word errors."""
    from jiwer import process_words

    def count(pairs: Pairs) -> Kinds:
        found = process_words([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs])
        return found.substitutions, found.deletions, found.insertions

    return count


def jiwer_both() -> Way:
    """Return jiwer's word errors, with those of characters computed as well."""
    from jiwer import process_characters

    words = jiwer()

    def count(pairs: Pairs) -> Kinds:
        process_characters([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs])
        return words(pairs)

    return count


def kaldialign() -> Way:
    """Return a loop over kaldialign's edit distance."""
    from kaldialign import edit_distance

    def count(pairs: Pairs) -> Kinds:
        found: Counter[str] = Counter()
        for reference, hypothesis in pairs:
            one = edit_distance(reference.split(), hypothesis.split())
            found.update({kind: one[kind] for kind in ("sub", "del", "ins")})
        return found["sub"], found["del"], found["ins"]

    return count


#: by name: the package, and what makes the function
WAYS: dict[str, tuple[str, Callable[[], Way]]] = {
    OURS: ("", ours),
    "rapidfuzz editops: words": ("rapidfuzz", rapidfuzz),
    "jiwer: words": ("jiwer", jiwer),
    "jiwer: words, characters": ("jiwer", jiwer_both),
    "kaldialign edit_distance: words": ("kaldialign", kaldialign),
}


def pairs_of(count: int) -> list[tuple[str, str]]:
    """Make texts of 4 to 26 words, and what recognizers of 0 to 20 % errors would write; half are without error."""
    generator = random.Random(0)
    letters = "etaoinshrdlucmfwypvbg"
    words = ["".join(generator.choices(letters, k=generator.randint(1, 9))) for _ in range(15_000)]

    def spoiled(word: str) -> str:
        at = generator.randrange(len(word))
        return word[:at] + generator.choice(letters) + word[at + generator.randint(0, 1) :]

    pairs = []
    for _ in range(count):
        reference = generator.choices(words, k=generator.randint(4, 26))
        level = generator.choice([0, 0.03, 0.08, 0.2])
        hypothesis: list[str] = []
        for word in reference:
            draw = generator.random() / level if level else 1.0
            if draw >= 1:
                hypothesis.append(word)
            elif draw < 0.7:
                hypothesis.append(spoiled(word))
            elif draw < 0.85:
                hypothesis += [word, generator.choice(words)]
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def read_pairs(reference: Path, hypothesis: Path) -> list[tuple[str, str]]:
    """Read the texts of two files whose lines begin with an id."""
    sides = [[line.partition(" ")[2] for line in path.read_text().splitlines()] for path in (reference, hypothesis)]
    return list(zip(*sides, strict=True))


def measure(pairs: Pairs, rounds: int) -> list[list[str]]:
    """Measure every package that is installed; return the rows of the table."""
    found: dict[str, Way] = {}
    for name, (_, make) in WAYS.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    kinds = {name: way(pairs) for name, way in found.items()}
    seconds = by_turns({name: lambda way=way: way(pairs) for name, way in found.items()}, rounds)
    return [
        [
            name if not WAYS[name][0] else name.replace(WAYS[name][0], version_of(WAYS[name][0])),
            f"{median(seconds[name]):.2f}",
            f"{ratio(seconds, name, OURS):.2f}",
            " / ".join(f"{number:,}" for number in kinds[name]),
        ]
        for name in found
    ]


def main() -> int:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=summary)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="references and hypotheses")
    parser.add_argument("--pairs", type=int, default=100_000, help="without files: so many are made")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if len(arguments.files) not in (0, 2):
        parser.error(f"two files, or none; got {len(arguments.files)}")

    pairs = read_pairs(*arguments.files) if arguments.files else pairs_of(arguments.pairs)
    print(f"{machine()}; {len(pairs):,} pairs, {sum(a != b for a, b in pairs):,} of them differ\n")
    head = ["", "seconds", "times our time", "S / D / I of words"]
    print(table(head, measure(pairs, arguments.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
