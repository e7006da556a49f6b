"""Find what texts hide: look-alike and invisible characters, and markup that is written but not spoken.

Each becomes a token of its own, or an error that nobody sees. ``docs/doctor.md`` lists what is found and what is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html.entities import html5

from asr.doctor.findings import Findings, Loaded, Row

#: Latin letters, and the letters of two other scripts that look the same, in the same order
_LATIN_FOR_CYRILLIC = "ABEKMHOPCTYXIJSGaeopcyxijsëïËÏqwdhlI"
_CYRILLIC = "АВЕКМНОРСТУХІЈЅԌаеорсухіјѕёїЁЇԛԝԁһӏӀ"
_LATIN_FOR_GREEK = "ABEZHIKMNOPTYXoó"
_GREEK = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοό"


@dataclass(frozen=True)
class _Script:
    """Describe a script with letters that look like Latin ones."""

    letter: re.Pattern[str]
    #: a word that has Latin letters and letters of this script
    mixed: re.Pattern[str]
    #: a Latin stem with an ending of this script, as Russian writes "SMSка"
    inflected: re.Pattern[str]
    like_latin: dict[str, str]

    @classmethod
    def of(cls, letters: str, own: str, latin: str) -> _Script:
        a, b = f"[{_LATIN}]", f"[{letters}]"
        return cls(
            letter=re.compile(b),
            mixed=re.compile(f"(?:{a}+{b}|{b}+{a})[{_LATIN}{letters}]*"),
            inflected=re.compile(f"{a}{{2,}}{b}+"),
            like_latin=dict(zip(own, latin, strict=True)),
        )


_LATIN = "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ"
_LATIN_LETTER = re.compile(f"[{_LATIN}]")
_SCRIPTS = (
    _Script.of("\u0400-\u0481\u048a-\u052f\u1c80-\u1c88\ua640-\ua66d", _CYRILLIC, _LATIN_FOR_CYRILLIC),
    _Script.of("\u0370-\u0373\u0376-\u037d\u037f-\u03ff\u1f00-\u1fbc\u1fc2-\u1fff", _GREEK, _LATIN_FOR_GREEK),
)
#: variants of Latin letters: ligatures as in PDF files, mathematical alphabets
_DRESSED = re.compile("[\ufb00-\ufb06\U0001d400-\U0001d6a3]")
#: typed for the apostrophe of "don't"
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019\u02bc\u2032\u00b4`](?=[^\W\d_])")

#: invisible: format characters (except the visible ones of Arabic), variation selectors of emoji, fillers
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe0e\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0001-\U000e007f]"
)
#: those that may have separated two words, if they are between letters
_WORDS_MEET = re.compile(r"\w\u200b\w")
#: joiners and zero-width spaces between words are correct in scripts like these (Arabic to Mongolian and Tai Tham,
#: Saurashtra to Meetei Mayek, Arabic presentation forms), and so is a joiner in emoji
_JOINING = re.compile("[\u200b-\u200d\u180e]")
_JOINED = re.compile("[\u0590-\u10ff\u1200-\u1cff\ua800-\uabff\ufb1d-\ufefc\u2190-\u2bff\U0001f000-\U0001faff]")
#: spaces with a width other than the plain space; every profile reads them as a space
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f]")
#: those that can be removed without harm: no word begins or ends there
_REMOVABLE = re.compile("[\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")

#: words in parentheses that are not spoken
_NOISE_WORDS = """
laugh laughs laughter laughing chuckle chuckles giggle giggles noise noises cough coughs coughing sneeze sneezes breath
breathing breathes sigh sighs sniff sniffs gasp gasps applause clapping cheering music inaudible unintelligible
indistinct unclear crosstalk silence unk rires rire lachen lacht gelächter risas risa risate risos ruido música musica
musique bruit musik geräusch śmiech szum смех смеётся смеется шум музыка вздох кашель аплодисменты неразборчиво γέλια
gülüşmeler kahkaha 笑 笑い 笑声 掌声 音乐 音楽 拍手 웃음 박수 음악 हँसी
"""
_NOISES = frozenset(_NOISE_WORDS.split())
_MARKUP = (
    ("an entity", re.compile(r"&(?:#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[A-Za-z][A-Za-z0-9]{1,31});")),
    ("an escape", re.compile(r"""\\(?:[nrtfv"'/\\]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})""")),
    ("an escape", re.compile(r"(?<=[^\W\d_])(?:%[0-9A-F]{2})+(?=[^\W\d_]|$)")),
    ("a marker", re.compile(r"<(?=[^<>]*[^\W\d_])[^\s<>](?:[^<>]{0,80}[^\s<>])?>")),
    ("a marker", re.compile(r"\[[^\[\]]{1,80}\]|\{[^{}]{1,80}\}|\+\+\w+\+\+|(?<!\S)!SIL\b|[♪♫♬]")),
    ("a marker", re.compile(r"\*[^\W\d_](?:[^*]{0,40}[^\W\d_])?\*")),
    ("a variant", re.compile(r"(?<=[^\W\d_])\(\d\)")),  # "the(2)", as pronunciation dictionaries number them
    ("a marker", re.compile(r"[(（]\s*([^()（）]{1,40}?)\s*[)）]")),
)
_MARKUP_SIGN = re.compile(r"[&\\%<\[{+!♪♫♬*(（]")
#: capitals before typographic marks or letters, "CAFÉ’S" and "VÝŠKA": their bytes can be UTF-8 by chance
_MISREAD_BY_CHANCE = re.compile(
    "(?:[\\0-\x7f]|[^\\W\\d_][\u2018-\u201e\u2026\u2013\u2014\u00ab\u00bb\u00a0]|(?!\u00c3)[^\\W\\d_][ŠšŒœŽžŸƒªºµ])*"
)
#: a single misread character may be one of these; of others there must be several
_WESTERN = re.compile("[\0-\u017f\u2010-\u2044\u20ac\u2122]*")


def shown(text: str, at: int) -> str:
    """Return the text around a place, quoted."""
    start = max(0, at - 20)
    return f"{'…' if start else ''}{text[start : start + 40]!r}{'…' if text[start + 40 :] else ''}"


def mended(text: str) -> str:
    """Return the text with the corrections that are safe.

    No-break spaces and their kin become spaces; byte-order marks, soft hyphens, word joiners and marks of writing
    direction are removed.

    >>> mended("\\ufeffa\\u00a0cab")
    'a cab'
    """
    return text if text.isascii() else _REMOVABLE.sub("", _SPACES.sub(" ", text))


def check_characters(loaded: Sequence[Loaded], findings: Findings) -> None:
    """Check what the texts hide: damaged characters, invisible ones, look-alikes, markup."""
    _check_lookalikes(loaded, findings)
    for one in loaded:
        for row in one.rows:
            if markup := find_markup(row.utterance.text):
                findings.add("text-markup", row, f"{markup[0]} in {shown(row.utterance.text, markup[1])}")
            if row.utterance.text.isascii() and row.utterance.text.isprintable():
                continue
            if damage := _damage(row):
                findings.add("text-unicode", row, damage)
            _check_invisible(row, findings)


def find_markup(text: str) -> tuple[str, int] | None:
    """Find the first entity, escape or marker in a text: its kind and place.

    >>> find_markup("salt &amp; pepper"), find_markup("so (laughs) yes"), find_markup("arts (and crafts) & more")
    (('an entity', 5), ('a marker', 3), None)
    """
    if not _MARKUP_SIGN.search(text):
        return None
    for kind, pattern in _MARKUP:
        for match in pattern.finditer(text):
            if kind == "an entity" and match[0][1] != "#" and match[0][1:] not in html5:
                continue
            inside = match[1] if match.re.groups else None
            if inside is not None and not (inside.strip() and set(inside.casefold().split()) <= _NOISES):
                continue
            return kind, match.start()
    return None


def _damage(row: Row) -> str:
    """Describe the damage to the characters of a text; return an empty string if there is none."""
    text = row.utterance.text
    if "\ufffd" in text:
        return f"U+FFFD in {shown(text, text.index(chr(0xFFFD)))}"
    # Cc control, Co private, Cn unassigned; other characters that do not print are correct in some scripts
    if not text.isprintable():
        bad = ("Cc", "Co", "Cn")
        odd = next((i for i, c in enumerate(text) if unicodedata.category(c) in bad and not c.isspace()), None)
        if odd is not None:
            return f"U+{ord(text[odd]):04X} in {shown(text, odd)}"
    if misread := _misread(" ".join(text.split())):
        return f"UTF-8 read as {misread[0]}: {shown(text, 0)} is {shown(misread[1], 0)}"
    return f"not NFC: {shown(row.text, 0)}" if _is_in_pieces(row.text) else ""


def _misread(text: str) -> tuple[str, str] | None:
    """Return the encoding in which a text in UTF-8 was misread, and the text that was meant."""
    for encoding in ("cp1252", "cp1251"):
        try:
            meant = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        enough = sum(not c.isascii() for c in meant) >= 3 or (encoding == "cp1252" and _WESTERN.fullmatch(meant))
        if meant != text and enough and not _MISREAD_BY_CHANCE.fullmatch(text):
            return encoding, meant
    return None


def _is_in_pieces(text: str) -> bool:
    """Return true if letters are written in other code points than those of NFC.

    Another order of marks is ignored, and so are letters that NFC itself takes apart (Bengali, Gurmukhi, Hebrew).
    """
    if unicodedata.is_normalized("NFC", text):
        return False
    apart = "".join(whole if len(whole := unicodedata.normalize("NFC", c)) > 1 else c for c in text)
    return sorted(unicodedata.normalize("NFC", apart)) != sorted(apart)


def _check_invisible(row: Row, findings: Findings) -> None:
    """Note what every profile removes or reads as a space; warn if two words may become one by it."""
    text = row.utterance.text
    places = [match.start() for match in _INVISIBLE.finditer(text) if not _is_joined(text, match.start())]
    between = next((at for at in places if _WORDS_MEET.match(text, max(0, at - 1))), None)
    if between is not None:
        value = f"{_named(text[between])}, taken out between letters, in {shown(text, between)}"
        findings.add("text-invisible", row, value)
    elif places:
        findings.add(
            "text-invisible", row, f"{_named(text[places[0]])}, taken out, in {shown(text, places[0])}", "note"
        )
    elif space := _SPACES.search(text):
        value = f"{_named(space[0])}, read as a space, in {shown(text, space.start())}"
        findings.add("text-invisible", row, value, "note")


def _is_joined(text: str, at: int) -> bool:
    """Return true if a joiner or a zero-width space is in a place where its script needs it."""
    beside = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return _JOINING.match(text[at]) is not None and _JOINED.search(beside) is not None


def _check_lookalikes(loaded: Sequence[Loaded], findings: Findings) -> None:
    rows = [row for one in loaded for row in one.rows]
    letters: set[str] = set()
    for row in rows:
        letters.update(row.text)
    if max(letters, default="").isascii():
        return
    found: dict[int, list[tuple[str, int]]] = {}  # place among the rows -> (character, position)
    for place, slip in _foreign_letters(rows, letters):
        found.setdefault(place, []).append(slip)
    for place, slip in _rare_apostrophes(rows):
        found.setdefault(place, []).append(slip)
    counts: Counter[str] = Counter()
    for place in sorted(found):
        row, slips = rows[place], found[place]
        counts.update({c for c, _ in slips})
        c, at = slips[0]
        findings.add("text-lookalike", row, f"{_named(c)} in {shown(row.text, at)}")
    if counts:
        listed = ", ".join(f"{_named(c)} {n:,}" for c, n in counts.most_common(20))
        findings.of("text-lookalike").details.append(
            f"rows with each: {listed}{', …' if len(counts) > 20 else ''}; each is a token beside the one meant"
        )


def _foreign_letters(rows: Sequence[Row], letters: set[str]) -> Iterator[tuple[int, tuple[str, int]]]:
    """Yield letters that stand for those of another script: (place of the row, (letter, position))."""
    has_latin = any(_LATIN_LETTER.match(c) for c in letters)
    used = [script for script in _SCRIPTS if has_latin and any(script.letter.match(c) for c in letters)]
    # If all letters of a script look Latin, nobody writes in that script: they are slips in any place.
    stray = [s for s in used if all(c in s.like_latin for c in letters if s.letter.match(c))]
    for place, row in enumerate(rows):
        text = row.text
        if text.isascii():
            continue
        for match in _DRESSED.finditer(text):
            yield place, (match[0], match.start())
        for script in used:
            if script in stray:
                yield from ((place, (m[0], m.start())) for m in script.letter.finditer(text))
            elif script.letter.search(text) and _LATIN_LETTER.search(text):
                yield from ((place, slip) for slip in _slips(text, script, letters))


def _slips(text: str, script: _Script, letters: set[str]) -> Iterator[tuple[str, int]]:
    """Return the letters in words of two scripts that can only be meant as letters of the other script."""
    to_script = {latin: own for own, latin in script.like_latin.items() if own in letters}
    for match in script.mixed.finditer(text):
        word, rest = match[0], text[: match.start()] + text[match.end() :]
        places = {True: [], False: []}  # type: dict[bool, list[int]]
        for i, c in enumerate(word):
            places[script.letter.match(c) is not None].append(i)
        own, latin = places[True], places[False]
        own_slips = all(word[i] in script.like_latin for i in own)
        latin_slips = all(word[i] in to_script for i in latin)
        among_latin = _LATIN_LETTER.search(rest) is not None and script.letter.search(rest) is None
        if script.inflected.fullmatch(word) and not among_latin:
            continue
        if own_slips and (among_latin or not latin_slips):
            yield from ((word[i], match.start() + i) for i in own)
        elif latin_slips:
            yield from ((word[i], match.start() + i) for i in latin)


def _rare_apostrophes(rows: Sequence[Row]) -> Iterator[tuple[int, tuple[str, int]]]:
    """Yield apostrophes inside words that most texts write as another character."""
    found = [
        (place, (match[0], match.start())) for place, row in enumerate(rows) for match in _APOSTROPHE.finditer(row.text)
    ]
    counts = Counter(c for _, (c, _) in found)
    usual = max(counts, key=lambda c: (counts[c], c == "'"), default="'")
    yield from (slip for slip in found if slip[1][0] != usual)


@cache
def _named(c: str) -> str:
    return f"{c!r} (U+{ord(c):04X}, {unicodedata.name(c, 'no name').lower()})"
