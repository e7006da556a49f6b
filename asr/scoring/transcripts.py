"""Files of transcripts by utterance id: manifests, hypothesis files, plain lines of ``id text``, and NIST's formats."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import DataError
from asr.lines import numbered_lines, unique_ids
from asr.scoring import nist


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an utterance beside its text; empty or None: not known."""

    speaker: str = ""
    duration_s: float | None = None
    meta: Mapping[str, Any] | None = None

    def over(self, other: Facts) -> Facts:
        """Both, field by field; where they differ, this one's."""
        meta = {**(other.meta or {}), **(self.meta or {})}
        duration_s = other.duration_s if self.duration_s is None else self.duration_s
        return Facts(self.speaker or other.speaker, duration_s, meta or None)

    def to_json(self) -> dict[str, Any]:
        """What is known, under the names of a manifest."""
        row = {"speaker": self.speaker, "duration_s": self.duration_s, "meta": self.meta}
        return {name: value for name, value in row.items() if value or value == 0}


NOTHING_KNOWN = Facts()


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The texts in a file by id, in its order, and what else its rows say.

    ``field``: which one of JSON rows the texts are from; empty in other formats.
    ``only_words``: the format has words, not utterances, so an utterance without words is not in it.
    """

    path: Path
    texts: dict[str, str]
    facts: dict[str, Facts] = dataclasses.field(default_factory=dict)
    field: str = ""
    only_words: bool = False

    def complete(self, ids: Iterable[str]) -> list[str]:
        """The ids that are missing here; in a format of words they are none, and get an empty text."""
        missing = [id_ for id_ in ids if id_ not in self.texts]
        if not self.only_words:
            return missing
        self.texts.update(dict.fromkeys(missing, ""))
        return []


def read_texts(path: str | Path, prefer: Sequence[str] = ("hypothesis", "text")) -> dict[str, str]:
    """The text of each id in a file, in the file's order, as ``read``."""
    return read(path, prefer).texts


def read(path: str | Path, prefer: Sequence[str] = ("hypothesis", "text")) -> Transcripts:
    """The transcripts in a file.

    A name that ends in ``.trn`` or ``.ctm`` is of NIST's formats (``asr.scoring.nist``). Else the file is JSON Lines if
    its first character is ``{`` (a manifest, or what ``--hypotheses`` writes), and otherwise plain lines ``id text`` as
    Kaldi has them, where the text may be empty. All JSON rows must have the same one of the preferred fields: to fall
    back to ``text`` row by row would score references against themselves.

    Raises:
        DataError: the file cannot be read, has no utterances, or a row is not valid; path and line are named.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".trn":
        return Transcripts(path, nist.read_trn(path))
    if kind == ".ctm":
        words_of = nist.read_ctm(path)
        return Transcripts(
            path, {id_: " ".join(w.word for w in words) for id_, words in words_of.items()}, only_words=True
        )
    texts: dict[str, str] = {}
    facts: dict[str, Facts] = {}
    new = unique_ids(path)
    fieldname: str | None = None
    is_json = False
    for number, line in numbered_lines(path):
        if not texts:
            is_json = line.lstrip().startswith("{")
        if is_json:
            row = _json_object(line, path, number)
            fieldname = _text_field(row, prefer, fieldname, path, number)
            id_, text = row["id"], row[fieldname]
            known = _facts(row, path, number)
            if known != NOTHING_KNOWN:
                facts[id_] = known
        else:
            # Only space and tab: other white space, such as U+00A0, may be part of an id.
            id_, text = (*re.split(r"[ \t]+", line.strip(" \t\r\n"), maxsplit=1), "")[:2]
        new(id_, number)
        texts[id_] = text
    if not texts:
        raise DataError("the file has no utterances", path)
    return Transcripts(path, texts, facts, fieldname or "")


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and deep nesting
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"not valid JSON ({where})", path, number) from error
    if not isinstance(row, dict):
        raise DataError(f"a row must be a JSON object, got {type(row).__name__}", path, number)
    if not isinstance(row.get("id"), str) or not row["id"]:
        raise DataError(f"'id' must be a non-empty string, got {row.get('id', 'none')!r}", path, number)
    return row


def _text_field(row: dict[str, Any], prefer: Sequence[str], before: str | None, path: Path, number: int) -> str:
    """The field that the text is in; ``before`` is the one that the rows before had."""
    who = f"utt '{row['id']}': "
    found = next((name for name in prefer if name in row), None)
    if found is None:
        raise DataError(f"{who}missing field {' or '.join(map(repr, prefer))}", path, number)
    if before is not None and found != before:
        raise DataError(f"{who}has '{found}' where the rows before have '{before}'; one field for all", path, number)
    if not isinstance(row[found], str):
        raise DataError(f"{who}'{found}' must be a string, got {row[found]!r}", path, number)
    return found


def _facts(row: dict[str, Any], path: Path, number: int) -> Facts:
    speaker, duration_s, meta = row.get("speaker") or "", row.get("duration_s"), row.get("meta") or None
    if not isinstance(speaker, str):
        wrong = f"'speaker' must be a string, got {speaker!r}"
    elif duration_s is not None and not _is_duration(duration_s):
        wrong = f"'duration_s' must be a number of seconds, finite and not negative, got {duration_s!r}"
    elif meta is not None and not isinstance(meta, dict):
        wrong = f"'meta' must be an object, got {meta!r}"
    else:
        return Facts(speaker, None if duration_s is None else float(duration_s), meta)
    raise DataError(f"utt '{row['id']}': {wrong}", path, number)


def _is_duration(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e300 and math.isfinite(value)
    )


def together(*sources: Mapping[str, Facts]) -> dict[str, Facts]:
    """What several files know of each utterance, field by field; the first that knows a field is right."""
    found: dict[str, Facts] = {}
    for source in sources:
        for id_, facts in source.items():
            found[id_] = found[id_].over(facts) if id_ in found else facts
    return found
