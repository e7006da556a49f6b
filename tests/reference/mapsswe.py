"""The matched-pairs test by another road: utterances as strings, segments by a regular expression."""

import re
import statistics

from tests.reference.sclite_alignment import operations


def differences(rows: list[tuple[str, str, str]]) -> list[int]:
    """Errors of the first system less those of the second, for each segment of (reference, first, second) rows.

    Every place of an utterance is a character: ``g`` a word that both have right, ``x`` a word that one has wrong, and
    between words ``x`` where one inserts something. Two or more ``g`` in a row part the segments.
    """
    found = []
    for reference, first, second in rows:
        places = [_places(reference.split(), hypothesis.split()) for hypothesis in (first, second)]
        marks = "".join(
            "x" if a or b else ("g" if index % 2 else "")
            for index, (a, b) in enumerate(zip(*places, strict=True))
        )  # fmt: skip
        kept = [(a, b) for index, (a, b) in enumerate(zip(*places, strict=True)) if a or b or index % 2]
        for piece in re.finditer(r"(?:(?!gg).)*?x(?:(?!gg).)*", marks):
            inside = kept[piece.start() : piece.end()]
            found.append(sum(a - b for a, b in inside))
    return found


def z_of(values: list[int]) -> float:
    return statistics.mean(values) / (statistics.stdev(values) / len(values) ** 0.5)


def _places(reference: list[str], hypothesis: list[str]) -> list[int]:
    """Errors before the first word, in it, after it, in the second, …"""
    places = [0] * (2 * len(reference) + 1)
    at = 0
    for step in operations(reference, hypothesis):
        if step == "I":
            places[at] += 1
        else:
            at += 2
            places[at - 1] = int(step != "C")
    return places
