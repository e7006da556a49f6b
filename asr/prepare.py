"""From a corpus archive to manifests: what every recipe shares.

A recipe is a folder with ``recipe.py`` (a ``RECIPE`` of facts and a ``prepare`` function) and ``conf/*.yaml``. It is
found by name in the checkout or in the installed package, and anybody's own folder by its path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import lzma
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

from asr.errors import ConfigError, DataError, nearest, os_reason
from asr.manifest import Utterance, write

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The facts of a dataset, and the function that prepares it.

    ``prepare(out, archive)`` writes the audio and the manifests under ``out`` and returns what it wrote.
    """

    name: str
    title: str
    hours: float
    sample_rate_hz: int
    licence: str
    homepage: str
    prepare: Callable[[Path, Path | None], Prepared]
    #: what to pass as --archive, and where to get it; empty when the recipe needs none
    archive: str = ""


@dataclass(frozen=True)
class Prepared:
    """What a preparation wrote: a manifest for each split, and what was left out with the reasons."""

    manifests: dict[str, Path]
    utterances: dict[str, list[Utterance]]
    dropped: dict[str, str]

    def summary(self) -> list[str]:
        """One line a split: rows, hours, speakers; and one line on what was dropped."""
        lines = []
        for name, rows in self.utterances.items():
            hours = sum(u.duration_s for u in rows) / 3600
            speakers = len({u.speaker for u in rows})
            lines.append(f"{name}: {len(rows):,} utterances, {hours:.2f} h, {speakers} speakers")
        total = len(self.dropped) + sum(map(len, self.utterances.values()))
        lines.append(f"kept {total - len(self.dropped):,} of {total:,}")
        lines += [f"dropped {id_}: {why}" for id_, why in list(self.dropped.items())[:10]]
        if len(self.dropped) > 10:
            lines.append(f"… and {len(self.dropped) - 10} more")
        return lines


def write_splits(out: Path, splits: Mapping[str, Iterable[Utterance]], dropped: Mapping[str, str]) -> Prepared:
    """Writes ``<split>.jsonl`` for each split under ``out``, sorted by id."""
    rows = {name: sorted(utterances, key=lambda u: u.id) for name, utterances in splits.items()}
    empty = [name for name, utterances in rows.items() if not utterances]
    if empty:
        raise DataError(f"nothing left for {', '.join(empty)}: is this the right archive?", out)
    manifests = {}
    for name, utterances in rows.items():
        manifests[name] = out / f"{name}.jsonl"
        write(manifests[name], utterances)
    return Prepared(manifests, rows, dict(dropped))


def stable_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same on every machine and in every year.

    >>> round(stable_hash("fash"), 6)
    0.653517
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def held_out_speakers(speakers: Iterable[str], fraction: float, salt: str) -> set[str]:
    """The share of speakers with the smallest stable hash: adding a speaker moves at most one other."""
    ordered = sorted(set(speakers), key=lambda s: (stable_hash(f"{salt}/{s}"), s))
    return set(ordered[: max(1, round(fraction * len(ordered)))])


def extract(archive: Path, out: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[Path]:
    """Extracts the wanted regular files of a tar archive under ``out``; the paths written.

    Each file takes its name only when it is whole, and one that is there already with its full size is kept, so a
    broken extraction can be run again. Of what a damaged archive gave nothing is kept; what was there before is.

    Raises:
        DataError: not a readable archive, cut short, no space, or a member that would land outside ``out``.
    """
    written: list[Path] = []
    new: list[Path] = []
    try:
        with archive.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"cannot read the archive: {os_reason(error)}", archive) from error
    try:
        # not the stream mode "r|*": that one checks no CRC and takes the end of a cut gzip file for the archive's end
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                path = _safe_path(archive, out, member)
                if not wanted(member.name):
                    continue
                if member.issym() or member.islnk():
                    log.warning("%s: left out '%s', a link to '%s'", archive, member.name, member.linkname)
                if not member.isfile():
                    continue
                written.append(path)
                if path.is_file() and path.stat().st_size == member.size:
                    continue
                source = tar.extractfile(member)
                assert source is not None  # a regular file always has content
                part = path.with_name(path.name + ".part")
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with source, part.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    part.replace(path)
                    new.append(path)
                finally:
                    part.unlink(missing_ok=True)
            _check_end(tar)
    except (tarfile.TarError, EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno:  # gzip and bz2 report damage as OSError without a number
            raise DataError(f"cannot extract to {out}: {os_reason(error)}", archive) from error
        # What came out of a damaged archive may be damaged too, and with its full size the next run would keep it.
        for path in new:
            path.unlink(missing_ok=True)
        # of a file that is none of the kinds tarfile tells the story of each kind, on five lines
        reason = "not tar, gzip, bzip2 or xz" if "\n" in str(error) else str(error)
        raise DataError(f"not a whole tar archive ({reason}); fetch it again", archive) from error
    return written


def _check_end(tar: tarfile.TarFile) -> None:
    """An error unless the archive ends in its end mark: ``tarfile`` stops without a word at a header it cannot read."""
    file = tar.fileobj
    assert file is not None  # open until the with block ends
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("damaged or cut before its end mark")
    while file.read(1 << 20):  # to the last byte: that is where gzip, bzip2 and xz compare their checksum
        pass


def _safe_path(archive: Path, out: Path, member: tarfile.TarInfo) -> Path:
    """Where a member goes; absolute names, ``..`` and links out of the archive (attacks or accidents) are errors."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or re.match(r"^[A-Za-z]:", member.name):
        raise DataError(f"refused: member '{member.name}' would be written outside the target folder", archive)
    if member.islnk() or member.issym():
        target = PurePosixPath(member.linkname)
        if target.is_absolute() or ".." in target.parts:
            raise DataError(f"refused: member '{member.name}' links outside the archive ('{member.linkname}')", archive)
    path = out.joinpath(*name.parts)
    if not path.resolve().is_relative_to(out.resolve()):
        raise DataError(f"refused: member '{member.name}' would be written outside the target folder", archive)
    return path


def recipes_folder() -> Path:
    """Where the recipes that come with the toolkit are: beside ``asr`` in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    return sorted(p.parent.name for p in recipes_folder().glob("*/recipe.py"))


def find_recipe(name: str) -> tuple[Recipe, Path]:
    """The recipe of a name, or in a folder of one's own, and its folder.

    Raises:
        ConfigError: there is none of that name; the nearest is named.
        DataError: the folder's ``recipe.py`` defines no ``RECIPE``.
    """
    folder = Path(name) if (Path(name) / "recipe.py").is_file() else recipes_folder() / name
    if not (folder / "recipe.py").is_file():
        names = recipe_names()
        raise ConfigError(f"no recipe '{name}' (known: {', '.join(names)}){nearest(name, names)}")
    recipe = getattr(_load_module(folder / "recipe.py"), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise DataError("defines no RECIPE (an asr.prepare.Recipe)", folder / "recipe.py")
    return recipe, folder


def find_config(name: str) -> Path:
    """The config file of a path, or of ``recipe/name`` (``an4/default``).

    Raises:
        ConfigError: neither is there.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipe, _, config = name.partition("/")
    found = recipes_folder() / recipe / "conf" / f"{config or 'default'}.yaml"
    if found.is_file():
        return found
    known = [f"{p.parent.parent.name}/{p.stem}" for p in sorted(recipes_folder().glob("*/conf/*.yaml"))]
    raise ConfigError(
        f"no config file '{name}' and no such recipe config (known: {', '.join(known)}){nearest(name, known)}"
    )


def recipe_configs(folder: Path) -> list[str]:
    return sorted(p.stem for p in (folder / "conf").glob("*.yaml"))


def _load_module(path: Path) -> ModuleType:
    """The module in a file, under a name of its own; files beside it can be imported as ``from <folder> import``."""
    name = "asr_recipe_" + re.sub(r"\W", "_", path.parent.name)
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None and spec.loader is not None  # a .py path always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
