"""The files of a Hugging Face tokenizer, as entries of its vocabulary and what is special about them.

Source: ``Wav2Vec2CTCTokenizer``, ``Wav2Vec2PhonemeCTCTokenizer`` and ``PreTrainedTokenizerBase._from_pretrained`` of
transformers 5.24; the format of ``tokenizer.json`` is that of its library ``tokenizers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.tokenizer import WORD_START
from asr.errors import CheckpointError, nearest
from asr.model.model_files import read_json

#: special tokens by the key that names them, and their names where no file does
_SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "sep_token": None,
    "cls_token": None,
    "mask_token": None,
}
#: names that no vocabulary has for a sound, declared as special or not
_NEVER_SAID = frozenset({"<s>", "</s>", "<unk>", "<pad>", "[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "<mask>"})
#: keys of text that end as those of special tokens do
_DELIMITERS = ("word_delimiter_token", "phone_delimiter_token")
_PHONETIC = "Wav2Vec2PhonemeCTCTokenizer"


@dataclass(frozen=True)
class Entries:
    """The entries of a vocabulary by column, and what they mean."""

    #: the file that they are from
    path: Path
    tokens: Mapping[int, str]
    pad: str | None
    special: frozenset[str]
    #: the entry that stands between words, and what is written for it
    delimiter: str | None = None
    space: str = " "
    lower_case: bool = False
    #: whether each entry is written as a word of its own, as signs of sounds are
    is_spaced: bool = False

    def rank(self, column: int) -> int:
        """Order entries that write the same: 0 is what texts are trained with."""
        token = self.tokens[column]
        if token == self.delimiter:
            return 0
        return 1 if not self.lower_case or token == token.upper() else 2


def read_entries(folder: Path, language: str | None) -> Entries:
    """Read the entries of a folder's vocabulary.

    Raises:
        CheckpointError: a file is missing or damaged, or of a kind that cannot be read; or there is no such language.
    """
    settings = _read_settings(folder)
    path = folder / "vocab.json"
    if path.is_file():
        return _of_vocab(path, settings, language)
    path = folder / "tokenizer.json"
    if path.is_file():
        return _of_tokenizer(path, settings)
    raise CheckpointError("no vocabulary: neither vocab.json nor tokenizer.json is there", folder)


@dataclass(frozen=True)
class _Settings:
    """Hold what the small files say."""

    path: Path
    values: Mapping[str, Any]
    #: entries that were added to the vocabulary, by column, and which of them are special
    added: Mapping[int, str]
    special: frozenset[str]

    def text(self, key: str, default: str | None) -> str | None:
        """Return a setting that names a token; null is None.

        Raises:
            CheckpointError: it is no text.
        """
        value = self.values.get(key, default)
        return None if value is None else _content(value, key, self.path)

    def flag(self, key: str) -> bool:
        value = self.values.get(key) or False
        if not isinstance(value, bool):
            raise CheckpointError(f"{key} must be true or false, got {value!r}", self.path)
        return value


def _read_settings(folder: Path) -> _Settings:
    path = folder / "tokenizer_config.json"
    values = _read_object(path)
    added: dict[int, str] = {}
    special: set[str] = set()

    if "added_tokens_decoder" in values:
        for column, token in _object(values["added_tokens_decoder"], "added_tokens_decoder", path).items():
            content = _content(token, "added_tokens_decoder", path)
            added[_column(column, content, path)] = content
            if isinstance(token, dict) and token.get("special") is True:
                special.add(content)
    else:
        # the older files, which newer ones do not need and may contradict
        values = values | _read_object(folder / "special_tokens_map.json")
        older = folder / "added_tokens.json"
        for content, column in _read_object(older).items():
            added[_column(column, content, older)] = content

    special |= set(_named_special(values, path))
    return _Settings(path, values, added, frozenset(special))


def _named_special(values: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Yield the names of special tokens."""
    others = {
        key: value
        for key, value in values.items()
        if key.endswith("_token") and key not in _DELIMITERS and isinstance(value, str | dict)
    }
    for key, value in {**{key: values.get(key, name) for key, name in _SPECIAL.items()}, **others}.items():
        if value is not None:
            yield _content(value, key, path)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = values.get(key) or []
        for value in more.values() if isinstance(more, dict) else _list(more, key, path):
            yield _content(value, key, path)


def _of_vocab(path: Path, settings: _Settings, language: str | None) -> Entries:
    """Return the entries of a vocab.json: one vocabulary, or one for each language."""
    vocabulary = _object(read_json(path), "vocab.json", path)
    if any(isinstance(value, dict) for value in vocabulary.values()):
        vocabulary = _of_language(vocabulary, language or settings.text("target_lang", None), path)
    elif language is not None:
        raise CheckpointError(f"has one vocabulary, not one for each language: leave out '#{language}'", path)

    # Where two entries have one id, the last is written, as in transformers.
    own = {_column(column, token, path): token for token, column in vocabulary.items()}
    config = _read_object(settings.path.parent / "config.json")
    is_phonetic = _PHONETIC in (settings.values.get("tokenizer_class"), config.get("tokenizer_class"))
    delimiter = settings.text("word_delimiter_token", None if is_phonetic else "|")
    special = settings.special | _NEVER_SAID
    return Entries(
        path=path,
        tokens={**settings.added, **own},
        pad=settings.text("pad_token", "<pad>"),
        special=frozenset(special | {delimiter}) if is_phonetic and delimiter else frozenset(special - {delimiter}),
        delimiter=None if is_phonetic else delimiter,
        space=settings.text("replace_word_delimiter_char", " ") or "",
        lower_case=not is_phonetic and settings.flag("do_lower_case"),
        is_spaced=is_phonetic,
    )


def _of_language(vocabularies: Mapping[str, Any], language: str | None, path: Path) -> dict[str, Any]:
    """Return one of many vocabularies."""
    if language is None:
        some = ", ".join(sorted(vocabularies)[:8])
        raise CheckpointError(
            f"has a vocabulary for each of {len(vocabularies):,} languages ({some}, …): name one, as in hf:NAME#eng",
            path,
        )
    if language not in vocabularies:
        raise CheckpointError(
            f"has no language {language!r} among its {len(vocabularies):,}{nearest(language, vocabularies)}", path
        )
    return _object(vocabularies[language], f"language {language}", path)


def _of_tokenizer(path: Path, settings: _Settings) -> Entries:
    """Return the entries of a tokenizer.json."""
    document = _object(read_json(path), "tokenizer.json", path)
    model = _object(document.get("model"), "model", path)
    tokens = _tokens_of_model(model, path)
    special = set(settings.special | _NEVER_SAID)

    for token in _list(document.get("added_tokens") or [], "added_tokens", path):
        content = _content(token, "added_tokens", path)
        tokens.setdefault(_column(token.get("id") if isinstance(token, dict) else None, content, path), content)
        if isinstance(token, dict) and token.get("special") is True:
            special.add(content)
    special.add(_unknown_token(model, tokens))
    if model.get("byte_fallback") is True:  # bytes of letters that no entry writes
        special |= {f"<0x{byte:02X}>" for byte in range(256)}

    steps = list(_decoding_steps(document.get("decoder"), path))
    ctc = next((step for step in steps if step["type"] == "CTC"), {})
    delimiter = None
    if ctc.get("cleanup", True) and ctc.get("word_delimiter_token") is not None:
        delimiter = _content(ctc["word_delimiter_token"], "word_delimiter_token", path)
    return Entries(
        path=path,
        tokens={**settings.added, **tokens},
        pad=settings.text("pad_token", ctc.get("pad_token", "<pad>")),
        special=frozenset(special - {delimiter}),
        delimiter=delimiter,
        is_spaced=not steps,  # without a decoder, tokenizers writes them with spaces between
    )


def _tokens_of_model(model: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return the entries of the model of a tokenizer.json by column."""
    kind, vocabulary = model.get("type"), model.get("vocab")
    if kind in ("BPE", "WordLevel"):
        return {_column(column, token, path): token for token, column in _object(vocabulary, "vocab", path).items()}
    if kind == "Unigram":
        rows = _list(vocabulary, "vocab", path)
        return {
            i: _content(row[0] if isinstance(row, list) and row else row, "vocab", path) for i, row in enumerate(rows)
        }
    raise CheckpointError(f"a tokenizer of kind {kind!r}; read are BPE, Unigram and WordLevel", path)


def _unknown_token(model: Mapping[str, Any], tokens: Mapping[int, str]) -> str:
    name, column = model.get("unk_token"), model.get("unk_id")
    if isinstance(name, str):
        return name
    return tokens.get(column, "<unk>") if isinstance(column, int) else "<unk>"


def _decoding_steps(decoder: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the steps from entries to text; refuse those after which an entry is no piece of text."""
    if decoder is None:
        return
    outer = _object(decoder, "decoder", path)
    inner = _list(outer.get("decoders"), "decoders", path) if outer.get("type") == "Sequence" else [outer]
    for value in inner:
        step = _object(value, "decoder", path)
        kind = step.get("type")
        is_space = kind == "Replace" and step.get("pattern") == {"String": WORD_START} and step.get("content") == " "
        if kind not in ("Metaspace", "Fuse", "Strip", "ByteFallback", "CTC") and not is_space:
            raise CheckpointError(f"its tokens are decoded by {kind!r}, which is not read here", path)
        yield step


def _read_object(path: Path) -> dict[str, Any]:
    """Read a small file that may be missing."""
    return _object(read_json(path), path.name, path) if path.is_file() else {}


def _object(value: Any, what: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} must be an object, got {type(value).__name__}", path)
    return value


def _list(value: Any, what: str, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{what} must be a list, got {type(value).__name__}", path)
    return value


def _content(token: Any, what: str, path: Path) -> str:
    """Return the text of a token, which is a string or an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise CheckpointError(f"{what}: a token must be a string, got {content!r}", path)
    return content


def _column(value: Any, token: str, path: Path) -> int:
    """Return the id of an entry; in tokenizer_config.json it is a string of digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise CheckpointError(f"the id of {token!r} must be a number from 0 on, got {value!r:.40}", path)
    return value
