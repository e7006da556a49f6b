"""Count characters that one side of a comparison never writes: each is an error that no recognizer can avoid.

With references in lower case and a model that writes upper case every word is wrong, and the rate does not measure the
model. The warnings here count such characters, and name the text normalisation that makes the two sides alike.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable

from asr.data.text import NORMALIZATIONS, normalize

#: least expected number of a kind on a side that has none, so that its absence is no chance (under 5 %)
_EXPECTED = 3
#: number of characters that are shown
_SHOWN = 5
UPPER, LOWER, PUNCTUATION, ACCENTS = "upper case", "lower case", "punctuation", "accented letters"


def unwritable_line(texts: Iterable[str], written: Collection[str], profile: str = "none") -> str:
    """Return one line about the characters of references that a model cannot write; empty if it can write them all.

    Args:
        texts: the references as they came.
        written: the characters of the texts that are compared with them.
        profile: the profile that is applied to the references.
    """
    raw = list(texts)
    missing = _missing(raw, written, profile)
    if not missing:
        return ""

    total = sum(_size(normalize(text, profile)) for text in raw)
    some = ", ".join(repr(c) for c, _ in missing.most_common(_SHOWN)) + (", …" if len(missing) > _SHOWN else "")
    counted = f"{missing.total():,} of {total:,} characters of the references are none that the model writes ({some})"

    # The profile that leaves the fewest, and of equally good ones that changes the model's characters least.
    alike = {name: under(written, name) for name in NORMALIZATIONS if name != "none"}
    left = {name: _missing(raw, known, name).total() for name, known in alike.items()}
    best = min(left, key=lambda name: (left[name], len(alike[name] - set(written))))
    if left[best] >= missing.total():
        return f"{counted}: no --normalization mends that; write them as the model does, numbers as they are spoken"
    return f"{counted}: --normalization {best} mends {f'all but {left[best]:,}' if left[best] else 'that'}"


def unlike_line(references: Iterable[str], hypotheses: Iterable[str]) -> str:
    """Return one line about the kinds of characters that only one side has; empty if both are alike.

    The texts are taken as they are compared. The kinds are letters of one case, punctuation and accents; single letters
    are not compared, as one may be missing by chance.
    """
    sides = {"references": _kinds(references), "hypotheses": _kinds(hypotheses)}

    parts: list[str] = []
    unlike: set[str] = set()
    for name, other in (("references", "hypotheses"), ("hypotheses", "references")):
        found, total = sides[name]
        other_found, other_total = sides[other]
        only = {kind: n for kind, n in found.items() if not other_found[kind]}
        count = sum(only.values())
        if count and count * other_total >= _EXPECTED * total:
            kinds = " or ".join(only)
            parts.append(f"{count:,} of {total:,} characters of the {name} are {kinds}, the {other} have none")
            unlike.update(only)
    if not unlike:
        return ""

    case = "lower" if sides["hypotheses"][0][LOWER] else "upper"  # where either does: the hypotheses stay as they are
    if ACCENTS in unlike:
        profile = "librispeech"
    else:
        profile = f"{case}-nopunct" if PUNCTUATION in unlike else case
    return f"{'; '.join(parts)}: --normalization {profile} mends that"


def under(written: Iterable[str], profile: str) -> set[str]:
    """Return characters under a profile; those that it keeps only inside words or numbers (apostrophe) are kept."""
    found: set[str] = set()
    for c in written:
        found.update(normalize(f"a{c}a", profile)[1:-1])
        found.update(normalize(f"1{c}1", profile)[1:-1])
    return found


def _missing(texts: Iterable[str], known: Collection[str], profile: str) -> Counter[str]:
    """Count the characters of texts under a profile that are not known, except white space."""
    return Counter(c for text in texts for c in normalize(text, profile) if c not in known and not c.isspace())


def _kinds(texts: Iterable[str]) -> tuple[Counter[str], int]:
    """Count the characters of each kind, and all characters."""
    # Each distinct character is looked up once: a set of texts has millions, of about a hundred kinds.
    each = list(texts)
    characters: Counter[str] = Counter()
    for text in each:
        characters.update(text)
    found: Counter[str] = Counter()
    for c, count in characters.items():
        found[UPPER] += count * c.isupper()
        found[LOWER] += count * c.islower()
        found[ACCENTS] += count * (not c.isascii() and unicodedata.normalize("NFD", c)[0].isascii())

    # Signs inside words and numbers are spelling: their neighbours decide. ASCII without a sign has none afterwards.
    signs = {c for c in characters if _signs(c)}
    for text in each:
        if not (text.isascii() and signs.isdisjoint(text)):
            found[PUNCTUATION] += _signs(text) - _signs(normalize(text, "lower-nopunct"))

    total = sum(count for c, count in characters.items() if not c.isspace())
    return +found, total


def _signs(text: str) -> int:
    """Count the punctuation characters; apostrophes are spelling."""
    return sum(unicodedata.category(c)[0] in "PS" and c not in "'’" for c in text)


def _size(text: str) -> int:
    return sum(not c.isspace() for c in text)
