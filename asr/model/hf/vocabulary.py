"""The vocabulary of a Hugging Face folder: which column of the network's head writes what.

A column is the blank, writes text, or is silent: special tokens such as ``<s>``, and columns without an entry. The
network adds what silent columns have to the blank, so that decoders need not know of them.

What an entry writes is what ``transformers`` writes for it; where that is not so, ``docs/pretrained.md`` says it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asr.data.pieces import PieceTokenizer
from asr.data.text import is_invisible
from asr.data.tokenizer import WORD_START, CharTokenizer, Tokenizer
from asr.errors import UNSAFE, CheckpointError, ConfigError
from asr.limits import TOKENS
from asr.model.hf.entries import Entries, read_entries
from asr.model.model_files import read_json


@dataclass(frozen=True)
class HfVocabulary:
    """The tokens of a model, and the columns of its head that they are read from."""

    tokenizer: Tokenizer
    #: the column of each of our ids: the blank first
    columns: tuple[int, ...]
    #: columns that write nothing; what they have belongs to the blank
    silent: tuple[int, ...]
    #: the profile that brings ordinary text to the model's letters: a guess
    profile: str
    #: what a person should know of it, a line each
    notes: tuple[str, ...] = ()


def read_vocabulary(folder: Path, outputs: int, language: str | None = None) -> HfVocabulary:
    """Read the vocabulary of a folder.

    Args:
        outputs: columns of the head, as its weights have them; the files may name more or fewer.
        language: which vocabulary, where there is one for each language (MMS).

    Raises:
        CheckpointError: a file is missing or damaged, no column is the blank, or none writes anything.
    """
    if outputs > TOKENS:
        raise CheckpointError(f"the head has {outputs:,} outputs, at most {TOKENS:,} are read", folder)
    entries = read_entries(folder, language)
    blank, odd = _blank(entries, outputs, folder)

    written: dict[str, int] = {}
    for column in sorted(entries.tokens, key=lambda column: (entries.rank(column), column)):
        text = _text(entries, column)
        if text and column < outputs and column != blank:
            written.setdefault(text, column)
    if not written:
        raise CheckpointError(f"none of the head's {outputs:,} outputs writes a letter", entries.path)

    by_column = sorted((column, text) for text, column in written.items())
    columns = (blank, *(column for column, _ in by_column))
    symbols = tuple(text for _, text in by_column)
    if any(len(symbol) > 1 and symbol[0] == " " for symbol in symbols):
        symbols = tuple(symbol.replace(" ", WORD_START) for symbol in symbols)
    try:
        is_char = all(len(symbol) == 1 for symbol in symbols)
        tokenizer: Tokenizer = CharTokenizer(symbols) if is_char else PieceTokenizer(symbols)
    except ConfigError as error:
        raise CheckpointError(str(error), entries.path) from error

    # Entries of several letters without any space between words are sounds.
    is_sounds = entries.is_spaced or not (is_char or any(symbol[0] in f" {WORD_START}" for symbol in symbols))
    profile, why = guess_profile(symbols, is_sounds=is_sounds)
    return HfVocabulary(
        tokenizer,
        columns,
        silent=tuple(sorted(set(range(outputs)) - set(columns))),
        profile=profile,
        notes=(f"text normalization {profile} is a guess from it ({why})", *odd, *_left_out(entries, outputs)),
    )


def _blank(entries: Entries, outputs: int, folder: Path) -> tuple[int, list[str]]:
    """Return the column of the blank, and what is odd about it.

    It is the entry of ``pad_token``. That may be missing from a vocabulary: the tokenizer then gives it an id above the
    head. ``transformers`` trains with ``pad_token_id`` of config.json as the blank, which should be the same.
    """
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    trained = config.get("pad_token_id") if isinstance(config, dict) else None
    if isinstance(trained, bool) or not isinstance(trained, int) or not 0 <= trained < outputs:
        trained = None

    columns = [column for column, token in entries.tokens.items() if token == entries.pad and column < outputs]
    if columns:
        is_odd = trained is not None and trained not in columns
        odd = f"the blank is output {columns[0]} ({entries.pad}), but pad_token_id of config.json is {trained}"
        return columns[0], [odd] if is_odd else []
    if trained is not None and not _text(entries, trained):
        return trained, []
    raise CheckpointError(
        f"no output is the blank: pad_token is {entries.pad!r}, which none of the head's {outputs:,} outputs has; "
        "name the blank's entry as pad_token in tokenizer_config.json",
        entries.path,
    )


def _text(entries: Entries, column: int) -> str:
    """Return what a column writes; nothing if nobody says it or sees it."""
    token = entries.tokens.get(column, "")
    if token in entries.special or token == entries.pad:
        return ""
    if token == entries.delimiter:
        return entries.space
    text = token.lower() if entries.lower_case else token
    text = text.replace(WORD_START, " ")
    if all(c in "\n\t" or is_invisible(c) or UNSAFE.match(c) for c in text):
        return ""
    text = " " if text.isspace() and text.isascii() else text
    return f" {text}" if entries.is_spaced else text


def _left_out(entries: Entries, outputs: int) -> list[str]:
    """Say which entries can never be written, as their ids are above the head."""
    above = [column for column in entries.tokens if column >= outputs and _text(entries, column)]
    if not above:
        return []
    shown = ", ".join(repr(entries.tokens[column]) for column in above[:5]) + (", …" if len(above) > 5 else "")
    return [f"{len(above):,} entries are above the head's {outputs:,} outputs and never written: {shown}"]


#: marks that end and part sentences: a model that writes two of them writes punctuation
_MARKS = frozenset(".,?!;:。，、？！؟،।")


def guess_profile(symbols: Iterable[str], *, is_sounds: bool = False) -> tuple[str, str]:
    """Guess which normalisation profile brings ordinary text to the letters of a vocabulary, and say why.

    Args:
        is_sounds: whether they are signs of sounds, which no profile may change.

    >>> guess_profile(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    ('librispeech', 'A to Z, no punctuation')
    """
    if is_sounds:
        return "none", "signs of sounds"
    letters = set("".join(symbols))
    lower = {c for c in letters if c.upper() != c}
    upper = {c for c in letters if c.lower() != c}
    both = sum(c.upper() in upper for c in lower)
    has_marks = len(letters & _MARKS) >= 2
    marks = "punctuation" if has_marks else "no punctuation"

    if both * 2 > max(len(lower), len(upper), 1):
        return "none", f"upper and lower case, {marks}"
    case = "upper" if len(upper) > len(lower) else "lower"
    if case == "upper" and not has_marks and all(c.isascii() for c in letters if c.isalpha()):
        return "librispeech", f"A to Z, {marks}"
    named = f"{case} case" if lower or upper else "letters without case"
    return case if has_marks else f"{case}-nopunct", f"{named}, {marks}"
