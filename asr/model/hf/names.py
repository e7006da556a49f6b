"""``hf:FOLDER_OR_NAME[#language]`` as a MODEL: what it names, and where what was tuned for it is kept."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from asr.errors import AsrError, ConfigError
from asr.files import cache_folder

PREFIX = "hf:"
#: a name on the hub: "model" or "owner/model"; the hub refuses two dots or two hyphens in a row
_NAME = re.compile(r"(?!.*(\.\.|--))\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.ASCII)
#: a language as MMS names its adapters: "deu", "cmn-script_simplified", "zlm-script_arabic"
_LANGUAGE = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*", re.ASCII)
_LONGEST = 96


@dataclass(frozen=True)
class HfName:
    """Hold a folder or a name on the hub, and the language of a model that has an adapter for each."""

    place: str
    language: str | None = None

    @property
    def folder(self) -> Path | None:
        """Return the folder on this machine that is meant; None: a name on the hub.

        What exists as a folder is one. So is what can only be a path, whether it exists or not.
        """
        path = _expanded(self.place)
        is_path = self.place.startswith((".", "/", "~")) or self.place.count("/") > 1
        return path if is_path or _is_folder(path) else None

    def __str__(self) -> str:
        return PREFIX + self.place + (f"#{self.language}" if self.language else "")


def is_hf(model: str | Path) -> bool:
    """Check whether a MODEL names a model of Hugging Face, known or not."""
    return str(model).startswith(PREFIX)


def parse(model: str | Path) -> HfName:
    """Split ``hf:FOLDER_OR_NAME[#language]``.

    >>> parse("hf:facebook/mms-1b-all#deu")
    HfName(place='facebook/mms-1b-all', language='deu')

    Raises:
        ConfigError: nothing is named, or it is neither a folder nor a name that the hub can have.
    """
    text = str(model).removeprefix(PREFIX)
    place, hash_sign, language = text, "", ""
    if not _is_folder(_expanded(text)):  # a folder may have a # in its name
        place, hash_sign, language = text.partition("#")
    if hash_sign and not _LANGUAGE.fullmatch(language):
        raise ConfigError(f"{model}: '{language}' is no language; expected one as in {PREFIX}facebook/mms-1b-all#deu")

    name = HfName(place, language or None)
    if not place or (name.folder is None and not (_NAME.fullmatch(place) and len(place) <= _LONGEST)):
        raise ConfigError(
            f"{model}: neither a folder nor a name on the hub; expected {PREFIX}FOLDER or {PREFIX}OWNER/MODEL, "
            f"with #LANGUAGE behind it for a model that has several"
        )
    return name


def whole_name(model: str) -> str:
    """Return a model's name so that it means the same in any working folder: the whole path of what is in a folder.

    >>> whole_name("hf:facebook/mms-1b-all#deu"), whole_name("torchaudio:A")
    ('hf:facebook/mms-1b-all#deu', 'torchaudio:A')
    """
    kind, colon, place = model.partition(":")
    if not (colon and kind.isalnum()) or Path(model).exists():
        return str(Path(model).resolve())
    if is_hf(model):
        name = parse(model)
        return str(name if name.folder is None else HfName(str(name.folder.resolve()), name.language))
    return f"{kind}:{Path(place).resolve()}" if Path(place).exists() else model


def settings_folder(model: str | Path) -> Path:
    """Return the folder of a model's ``decoder.json`` in this person's cache; it need not exist.

    It is named for the model, and for a folder also for its place: two folders of one name are two models.

    Raises:
        ConfigError: as ``parse``.
        AsrError: this person has no home folder.
    """
    name = parse(model)
    folder = name.folder
    if folder is None:
        own = name.place.replace("/", "--")
    else:
        place = folder.resolve()
        digest = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()[:12]
        own = f"{re.sub(r'[^A-Za-z0-9._-]', '_', place.name)[:_LONGEST]}--at-{digest}"
    try:
        return cache_folder() / "hf" / (own + (f"--{name.language}" if name.language else ""))
    except RuntimeError as error:
        raise AsrError("there is no home folder to keep a tuned decoder in; set XDG_CACHE_HOME") from error


def _expanded(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError:  # nobody of that name has a home folder
        return Path(place)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file system takes
        return False
