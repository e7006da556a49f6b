"""Error rates of many pairs of texts, by turns with jiwer and rapidfuzz, in processor time on one thread.

    python -m benchmarks.scoring [--references FILE] [--pairs 100000] [--rounds 5]

References are the lines of a file, repeated as needed; without one, words drawn as often as words of a language are.
Hypotheses are made from them: of 100 words 6 get another letter, 1.5 are left out, and 1.5 have a word before them.
jiwer and rapidfuzz count substitutions, deletions and insertions of words and characters; ``score`` gives these for
each utterance too, and the intervals of both rates. All must find the same counts of words.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.turns import by_turns, machine, ratio, table, version_of

Pairs = list[tuple[str, str]]
WORDS = 20_000


def make_pairs(lines: Sequence[str], count: int, seed: int = 1) -> Pairs:
    """Return references and hypotheses with errors, the same for the same seed."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("etaoinshrdlu", k=generator.randint(2, 9))) for _ in range(WORDS)]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(WORDS)))  # Zipf's law

    pairs = []
    for number in range(count):
        if lines:
            reference = lines[number % len(lines)].split()
        else:
            reference = generator.choices(words, cum_weights=weights, k=generator.randint(4, 30))
        hypothesis: list[str] = []
        for word in reference:
            chance = generator.random()
            if chance < 0.06:
                at = generator.randrange(len(word))
                word = word[:at] + generator.choice("aeiou") + word[at + 1 :]
            elif chance < 0.075:
                continue
            elif chance < 0.09:
                hypothesis += generator.choices(words, cum_weights=weights)
            hypothesis.append(word)
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def by_rapidfuzz(pairs: Pairs) -> tuple[Counter[str], Counter[str]]:
    """Count the operations of words and of characters."""
    from rapidfuzz.distance.Levenshtein import editops

    words: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for reference, hypothesis in pairs:
        if reference != hypothesis:
            words.update(tag for tag, _, _ in editops(reference.split(), hypothesis.split()).as_list())
            characters.update(tag for tag, _, _ in editops(reference, hypothesis).as_list())
    return words, characters


def main() -> None:
    """Measure, check that all count the same, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--references", type=Path, help="a text in each line; default drawn words")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    import jiwer

    from asr.scoring.wer import score

    lines = [line for line in args.references.read_text().splitlines() if line.strip()] if args.references else []
    pairs = make_pairs(lines, args.pairs)
    rows = [(str(number), *pair) for number, pair in enumerate(pairs)]
    references, hypotheses = (list(side) for side in zip(*pairs, strict=True))

    ours = score(rows).wer
    theirs = jiwer.process_words(references, hypotheses)
    fuzz, _ = by_rapidfuzz(pairs)
    counts = (ours.substitutions, ours.deletions, ours.insertions)
    assert counts == (theirs.substitutions, theirs.deletions, theirs.insertions)
    assert counts == (fuzz["replace"], fuzz["delete"], fuzz["insert"])

    ways = {
        "asr.scoring.score, with intervals": lambda: score(rows),
        version_of("rapidfuzz"): lambda: by_rapidfuzz(pairs),
        version_of("jiwer"): lambda: (
            jiwer.process_words(references, hypotheses),
            jiwer.process_characters(references, hypotheses),
        ),
    }
    seconds = by_turns(ways, args.rounds)
    own = next(iter(ways))
    cells = [
        [name, f"{sorted(each)[len(each) // 2]:.2f}", f"{ratio(seconds, name, own):.2f}"]
        for name, each in seconds.items()
    ]
    print(f"{len(pairs):,} pairs, {ours.reference_length:,} words, {len(lines) or 'drawn'} references, {machine()}\n")
    print(table(["way", "s", "times ours"], cells))


if __name__ == "__main__":
    main()
