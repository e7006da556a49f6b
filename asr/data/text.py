"""Normalisation profiles for transcripts, applied before they become tokens and before they are scored.

A profile is a name, kept with the data (``prepared.json``), the run and the model, so that training and scoring agree.
Every profile is idempotent: applying it to text that went through it changes nothing. ``docs/text.md`` has the rules.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from asr.errors import ConfigError, nearest

#: in a training config: the profile that the data were prepared with; as a profile by itself it is ``none``
AS_PREPARED = "data"

#: name -> what it does; all collapse white space, remove invisible marks, and leave digits and letters of other
#: scripts alone
NORMALIZATIONS = {
    "none": "text as it stands, but for invisible marks and surrounding or repeated white space",
    "upper": "upper case, Unicode NFC",
    "lower": "lower case, Unicode NFC",
    "upper-nopunct": "upper case, NFC, no punctuation or symbols but apostrophes inside words",
    "lower-nopunct": "lower case, NFC, no punctuation or symbols but apostrophes inside words",
    "librispeech": "A-Z, apostrophe and space, as LibriSpeech's transcripts: accents folded, punctuation removed",
}

#: typed for an apostrophe: quotation marks, U+02BC (a letter), full width, grave and acute accent
_APOSTROPHES = frozenset("'\u2019\u2018\u201b\u02bc\uff07`\u00b4")
_MODIFIER_APOSTROPHE = "\u02bc"
#: punctuation inside a number, between two digits: 3.5, 1,000, 10:30, 1/2, 1990-95, 2⁄3
_IN_NUMBERS = frozenset(".,:/-\u2010\u2011\u2013\u2044\u00b7\u066b\u066c")
#: signs that are read aloud beside a digit, with all of Unicode's currency signs
_SIGNS = frozenset("%‰#№°+±−×÷=")
#: signs that are read aloud wherever they stand; removing one removes a word
_SPOKEN = frozenset("&@%‰#№°+±×÷=§")
#: written, but neither seen nor heard: controls, soft hyphens, zero width spaces, marks of direction, byte order marks,
#: fillers, variation selectors, tags. Source: Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: zero width joiner and non-joiner: spelling between letters of these scripts, from Arabic to Myanmar and Khmer
_JOINERS = "\u200c\u200d"
_JOINING = re.compile("[\u0600-\u109f\u1780-\u18af\ua800-\uaadf\uabc0-\uabff]")
#: anything but letters, digits and white space, and most marks, which \w lacks
_CANDIDATE = re.compile(r"[^\w\s]|[_\u02bc]")
_ASCII_DIGIT = re.compile(r"[0-9]")
#: letters that Unicode does not decompose, as English texts write them
_LIGATURES = {"Æ": "AE", "Œ": "OE", "Ø": "O", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "TH", "ẞ": "SS"}


def check_profile(profile: str) -> None:
    """Refuse a name that is no profile.

    Raises:
        ConfigError: the profile is unknown; the nearest is named.
    """
    if profile not in NORMALIZATIONS:
        raise ConfigError(
            f"unknown text normalization '{profile}'{nearest(profile, NORMALIZATIONS)} "
            f"(known: {', '.join(NORMALIZATIONS)})",
            key="text.normalization",
        )


def normalize(text: str, profile: str) -> str:
    """Return the text under a normalisation profile, with white space collapsed to single spaces.

    >>> normalize(" Yes,  it is ", "upper")
    'YES, IT IS'
    >>> normalize("“Don’t,” said Zoë—at 10:30!", "librispeech")
    "DON'T SAID ZOE AT 10:30"

    Raises:
        ConfigError: the profile is unknown.
    """
    if profile == AS_PREPARED:
        profile = "none"
    check_profile(profile)
    text = _visible(text)
    if profile == "none":
        return " ".join(text.split())

    text = unicodedata.normalize("NFC", text)
    text = text.lower() if profile.startswith("lower") else text.upper()
    text = unicodedata.normalize("NFC", text)  # changing case can decompose: U+0390 has no upper-case form
    if profile == "librispeech":
        text = _fold(text)
    if profile not in ("upper", "lower"):
        text = _without_punctuation(_without_stray_marks(text), final_apostrophes=profile == "librispeech")
    return " ".join(text.split())


def has_digits(text: str) -> bool:
    """Check whether a text holds a numeral of any script (Unicode category N), which does not show how it was read.

    >>> has_digits("at 10:30"), has_digits("½ a cup"), has_digits("CHAPTER IV")
    (True, True, False)
    """
    if text.isascii():
        return _ASCII_DIGIT.search(text) is not None
    return any(unicodedata.category(c)[0] == "N" for c in text)


def spoken_signs_lost(text: str, profile: str) -> set[str]:
    """Return the signs that people read aloud (&, %, a currency) and that the profile removes from the text.

    >>> spoken_signs_lost("salt & pepper, 5% off", "upper-nopunct")
    {'&'}
    """
    before = {c for c in text if c in _SPOKEN or unicodedata.category(c) == "Sc"}
    return before - set(normalize(text, profile)) if before else before


def is_invisible(c: str) -> bool:
    """Check whether a character is neither seen nor heard, wherever it stands: no profile keeps it."""
    return c not in _JOINERS and _INVISIBLE.fullmatch(c) is not None


def _visible(text: str) -> str:
    """Remove invisible characters; a joiner stays where it is spelling."""
    if text.isascii() and text.isprintable():  # as most texts are: a third of the time less
        return text

    def joins(c: str) -> bool:
        return _JOINING.match(c) is not None and unicodedata.category(c)[0] in "LM"

    def kept(match: re.Match[str]) -> str:
        at = match.start()
        is_spelling = match[0] in _JOINERS and at and joins(text[at - 1]) and joins(text[at + 1 : at + 2])
        return match[0] if is_spelling else ""

    return _INVISIBLE.sub(kept, text).replace("\u2800", " ")  # a Braille cell without dots


def _without_stray_marks(text: str) -> str:
    """Remove marks that are on no letter and no digit, as an emoji's, and the frames of keycaps."""
    if text.isascii():
        return text
    out = []
    on_letter = False

    for c in text:
        category = unicodedata.category(c)
        is_mark = category[0] == "M" or c in _JOINERS
        if is_mark and (not on_letter or category == "Me"):
            continue
        on_letter = is_mark or _in_word(c)
        out.append(c)

    return "".join(out)


def _fold(text: str) -> str:
    """Write every letter of an upper-case text that is A to Z but for accents, or a ligature of them, as such letters.

    A letter of another kind stays, with its marks.
    """
    if text.isascii():
        return text
    out = []
    latin = False

    for c in text:
        if latin and unicodedata.category(c) == "Mn":
            continue
        folded = _folded(c)
        latin = folded.isascii() and folded.isalpha()
        out.append(folded)

    return "".join(out)


@lru_cache(maxsize=4096)
def _folded(c: str) -> str:
    if c.isascii() or unicodedata.category(c)[0] != "L":
        return c
    bare = "".join(d for d in unicodedata.normalize("NFKD", c) if unicodedata.category(d) != "Mn")
    bare = _LIGATURES.get(c) or "".join(_LIGATURES.get(d, d) for d in bare.upper())
    return bare if bare.isascii() and bare.isalpha() else c


def _without_punctuation(text: str, *, final_apostrophes: bool) -> str:
    """Replace what is no letter, mark or digit by a space, except for apostrophes and parts of numbers.

    Always by a space: "and/or" is two words. What stays has a letter or digit beside it, which stays too, so a second
    pass changes nothing.

    Args:
        final_apostrophes: keep those at a word's end, unless an apostrophe before a word opened a quotation.
    """
    quoted = False

    def replacement(match: re.Match[str]) -> str:
        nonlocal quoted
        c = match[0]
        at = match.start()
        before = text[max(at - 1, 0) : at]
        after = text[at + 1 : at + 2]

        if c in _APOSTROPHES:
            if _in_word(before) and _in_word(after):
                return "'"
            if c == _MODIFIER_APOSTROPHE:  # a letter in Hawaiian, Navajo, …
                return c
            if final_apostrophes and _in_word(before) and not quoted:
                return "'"
            quoted = _in_word(after)
            return " "

        category = unicodedata.category(c)
        if category[0] in "LMN" or c in _JOINERS:
            return c
        follows = has_digits(before)
        leads = has_digits(after)
        is_in_number = c in _IN_NUMBERS and follows and leads
        is_sign = (c in _SIGNS or category == "Sc") and (follows or leads)
        is_minus = c == "-" and leads and not before.strip()
        return c if is_in_number or is_sign or is_minus else " "

    return _CANDIDATE.sub(replacement, text)


def _in_word(c: str) -> bool:
    return bool(c) and c != _MODIFIER_APOSTROPHE and unicodedata.category(c)[0] in "LMN"
