"""Characters that one side of a comparison never writes: each of them is an error that no recognizer can avoid.

With references in lower case and a model that writes upper case every word is wrong, and the rate says nothing of the
model. The lines here count such characters, and name the text normalisation that makes the two sides alike.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable

from asr.text import NORMALIZATIONS, normalize

#: so many characters of a kind must be expected on the side that has none, before that is no chance (under 5 %)
_EXPECTED = 3
#: characters that are shown
_SHOWN = 5
UPPER, LOWER, PUNCTUATION, ACCENTS = "upper case", "lower case", "punctuation", "accented letters"


def unwritable_line(texts: Iterable[str], written: Collection[str], profile: str = "none") -> str:
    """One line about the characters of references that a model cannot write; empty where it can write them all.

    Args:
        texts: the references as they came.
        written: the characters of what is compared with them.
        profile: what is done to the references.
    """
    raw = list(texts)
    missing = _missing(raw, written, profile)
    if not missing:
        return ""
    total = sum(_size(normalize(text, profile)) for text in raw)
    some = ", ".join(repr(c) for c, _ in missing.most_common(_SHOWN)) + (", …" if len(missing) > _SHOWN else "")
    said = f"{missing.total():,} of {total:,} characters of the references are none that the model writes ({some})"
    alike = {name: under(written, name) for name in NORMALIZATIONS if name != "none"}
    left = {name: _missing(raw, known, name).total() for name, known in alike.items()}
    best = min(left, key=lambda name: (left[name], len(alike[name] - set(written))))
    if left[best] >= missing.total():
        return f"{said}: no --normalization mends that; write them as the model does, numbers as they are spoken"
    return f"{said}: --normalization {best} mends {f'all but {left[best]:,}' if left[best] else 'that'}"


def unlike_line(references: Iterable[str], hypotheses: Iterable[str]) -> str:
    """One line about the kinds of characters that one side has and the other never; empty where both are alike.

    The texts are taken as they are compared. Kinds, as a single letter may be missing by chance: letters of one case,
    punctuation, accents.
    """
    sides = {"references": _kinds(references), "hypotheses": _kinds(hypotheses)}
    said: list[str] = []
    unlike: set[str] = set()
    for name, other in (("references", "hypotheses"), ("hypotheses", "references")):
        (has, total), (there, size) = sides[name], sides[other]
        only = {kind: n for kind, n in has.items() if not there[kind]}
        count = sum(only.values())
        if count and count * size >= _EXPECTED * total:
            said.append(
                f"{count:,} of {total:,} characters of the {name} are {' or '.join(only)}, the {other} have none"
            )
            unlike.update(only)
    if not unlike:
        return ""
    case = "lower" if sides["hypotheses"][0][LOWER] else "upper"  # where either does: the hypotheses stay as they are
    profile = "librispeech" if ACCENTS in unlike else f"{case}-nopunct" if PUNCTUATION in unlike else case
    return f"{'; '.join(said)}: --normalization {profile} mends that"


def under(written: Iterable[str], profile: str) -> set[str]:
    """Characters under a profile; those that it keeps inside words or numbers only, as an apostrophe, are kept."""
    found: set[str] = set()
    for c in written:
        kept = normalize(f"a{c}a", profile)[1:-1] + normalize(f"1{c}1", profile)[1:-1]
        found.update(kept)
    return found


def _missing(texts: Iterable[str], known: Collection[str], profile: str) -> Counter[str]:
    """The characters of texts under a profile that are not known, white space apart, and how many of each there are."""
    return Counter(c for text in texts for c in normalize(text, profile) if c not in known and not c.isspace())


def _kinds(texts: Iterable[str]) -> tuple[Counter[str], int]:
    """How many characters of each kind there are, and of all."""
    found: Counter[str] = Counter()
    total = 0
    for text in texts:
        total += _size(text)
        for c in text:
            if c.isupper():
                found[UPPER] += 1
            elif c.islower():
                found[LOWER] += 1
            if not c.isascii() and unicodedata.normalize("NFD", c)[0].isascii():
                found[ACCENTS] += 1
        found[PUNCTUATION] += _signs(text) - _signs(normalize(text, "lower-nopunct"))
    return +found, total


def _signs(text: str) -> int:
    """How many characters are punctuation; apostrophes are spelling."""
    return sum(unicodedata.category(c)[0] in "PS" and c not in "'’" for c in text)


def _size(text: str) -> int:
    return sum(not c.isspace() for c in text)
