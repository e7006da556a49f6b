"""Packing the audio of a manifest into tar files, in WebDataset's layout.

``key.flac``, and beside it ``key.json`` with the manifest's row. Audio is copied byte by byte.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data import shards
from asr.data.lines import numbered
from asr.data.manifest import Manifest, Utterance
from asr.data.prepared import Header
from asr.errors import ConfigError, DataError, os_reason
from asr.files import json_text, open_atomic, read_small, write_bytes

MIB = 2**20
#: a member's header, and its content filled up to blocks
_BLOCK = 512


@dataclass(frozen=True)
class Sharded:
    """Hold what was written: the new manifest, its tar files, and how many of these were there already."""

    manifest: Path
    shards: list[Path]
    kept: int
    files: int


@dataclass(frozen=True)
class _Item:
    """One audio file: its path, its name in the tar file, and the rows that it is the audio of."""

    path: Path
    key: str
    suffix: str
    num_bytes: int
    mtime_ns: int
    rows: tuple[Utterance, ...]

    @property
    def member(self) -> str:
        return self.key + self.suffix

    @property
    def about(self) -> bytes:
        """Return the content of ``key.json``: the row, or all rows of one long recording."""
        rows = [{k: v for k, v in row.to_json().items() if k != "audio_path"} for row in self.rows]
        return json_text(rows[0] if len(rows) == 1 else {"utterances": rows}).encode()

    @property
    def bytes_in_tar(self) -> int:
        return sum(_BLOCK + -(-n // _BLOCK) * _BLOCK for n in (self.num_bytes, len(self.about)))


def write_shards(
    manifest: Manifest, out: Path, shard_mib: int = 512, advance: Callable[[], None] = lambda: None
) -> Sharded:
    """Write tar files of about ``shard_mib`` under ``out``/shards, then ``out``/<name>.jsonl with their members.

    A tar file has its name only when it is whole; one that is there from an earlier call, of the same audio and rows,
    is kept. ``prepared.json`` and the tokenizer are copied; of a folder that is there already, the other splits stay.

    Args:
        advance: called after each tar file.

    Raises:
        ConfigError: ``out`` is the manifest's own folder, or holds data with another text normalization or tokenizer,
            or another manifest of this name.
        DataError: an audio file is missing, or a tar file cannot be written; the next call keeps what is whole.
    """
    folder = manifest.path.parent
    stem = manifest.path.name.removesuffix(".jsonl")
    path = out / f"{stem}.jsonl"
    if out.resolve() == folder.resolve():
        raise ConfigError(f"--out {out} is the manifest's own folder, and its manifest would be written over")
    header = headers.read(folder)
    header_there = headers.read(out)
    _check_alike(folder, header, out, header_there)
    _check_same(manifest, header, path, header_there)

    tars = []
    kept = 0
    items = _items(manifest)
    places: dict[str, str] = {}

    for number, part in enumerate(_cut(items, shard_mib * MIB)):
        tar = out / "shards" / f"{stem}-{number:06d}.tar"
        try:
            kept += _write(tar, part)
        except OSError as error:
            problem = f"cannot write: {os_reason(error)}; run the same command again, whole shards are kept"
            raise DataError(problem, tar) from error
        places |= {row.id: f"shards/{tar.name}#{item.member}" for item in part for row in item.rows}
        tars.append(tar)
        advance()

    _remove_more(out / "shards", stem, len(tars))
    manifests.write(path, (replace(row, audio_path=places[row.id]) for row in manifest))
    if (tokenizer := headers.tokenizer_path(folder, header)) is not None:
        write_bytes(out / tokenizer.name, tokenizer.read_bytes())
    if header is not None:
        splits = dict(header_there.splits) if header_there else {}
        splits |= {name: facts for name, facts in header.splits.items() if name == stem}
        headers.write(out, replace(header, splits=splits))

    return Sharded(path, tars, kept, len(items))


def _check_same(manifest: Manifest, header: Header | None, path: Path, header_there: Header | None) -> None:
    """Refuse two corpora in one folder: with a ``train.jsonl`` each, the second would replace the first."""
    if not path.exists():
        return
    recipes = [one.recipe for one in (header_there, header) if one is not None]
    if len(set(recipes)) > 1 or {u.id for u in manifests.read(path)} != {u.id for u in manifest}:
        raise ConfigError(f"{path} is of other utterances than {manifest.path}; choose another --out, or remove it")


def _check_alike(folder: Path, header: Header | None, out: Path, header_there: Header | None) -> None:
    """Refuse data that one header cannot describe: with another profile or tokenizer than those in ``out``."""
    place = headers.tokenizer_path(folder, header)
    place_there = headers.tokenizer_path(out, header_there)
    if header_there is None and place_there is None and not any(out.glob("*.jsonl")):
        return

    profile = header.normalization if header else "none"
    profile_there = header_there.normalization if header_there else "none"
    if profile != profile_there:
        raise ConfigError(
            f"--out {out} holds data prepared with text normalization {profile_there}, these have {profile}; "
            "choose another"
        )

    try:
        tokenizers = {read_small(one) if one is not None else b"" for one in (place, place_there)}
    except OSError as error:
        raise DataError(f"the tokenizer that the data speak of cannot be read: {os_reason(error)}", out) from error

    if len(tokenizers) > 1:
        raise ConfigError(f"--out {out} holds data with another tokenizer than these; choose another")


def _items(manifest: Manifest) -> list[_Item]:
    """Return the audio files of a manifest, each once."""
    rows_of: dict[str, list[Utterance]] = {}
    for row in manifest:
        rows_of.setdefault(row.audio_path, []).append(row)
    keys = numbered(_key(rows[0].id) for rows in rows_of.values())

    items = []
    for key, rows in zip(keys, rows_of.values(), strict=True):
        path = manifest.audio_path(rows[0])
        try:
            num_bytes = shards.num_bytes(path)
            mtime_ns = shards.container(path).stat().st_mtime_ns
        except (OSError, ValueError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else str(error)
            raise DataError(f"utt '{rows[0].id}': cannot read the audio: {reason}", path) from error
        name = shards.split(path)[1] if shards.is_member(path) else path.name
        items.append(_Item(path, key, PurePosixPath(name).suffix.lower(), num_bytes, mtime_ns, tuple(rows)))

    return items


def _key(id_: str) -> str:
    """Return an id as WebDataset takes it, for which the first dot in a name begins the kind of the member.

    >>> _key("a/b.c d")
    'a_b_c_d'
    """
    return re.sub(r"[^\w-]", "_", id_, flags=re.ASCII)


def _cut(items: list[_Item], limit: int) -> Iterator[list[_Item]]:
    """Yield the items of each tar file, of at most ``limit`` bytes together."""
    part: list[_Item] = []
    size = 0
    for item in items:
        if part and size + item.bytes_in_tar > limit:
            yield part
            part = []
            size = 0
        part.append(item)
        size += item.bytes_in_tar

    if part:
        yield part


def _write(tar: Path, items: list[_Item]) -> bool:
    """Write one tar file; return true if it was there already."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.member, item.num_bytes, item.mtime_ns, str(item.path), item.about)).encode())
    source = digest.hexdigest()
    if (_index(tar) or {}).get("source") == source:
        return True

    with open_atomic(tar, "wb") as out, tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as file:
        for item in items:
            with shards.open_bytes(item.path) as audio:
                _add(file, item.member, item.num_bytes, audio)
            _add(file, item.key + ".json", len(item.about), io.BytesIO(item.about))

    status = tar.stat()
    shards.write_index(tar, status.st_size, status.st_mtime_ns, shards.find_members(tar), source=source)
    return False


def _index(tar: Path) -> dict[str, Any] | None:
    """Return the index of a tar file, if the file is there and the index is of it."""
    if not tar.exists():
        return None
    status = tar.stat()
    return shards.read_index(tar, status.st_size, status.st_mtime_ns)


def _add(file: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    info = tarfile.TarInfo(name)  # no time, no owner: the same audio gives the same bytes
    info.size = size
    info.mode = 0o644
    file.addfile(info, content)


def _remove_more(folder: Path, stem: str, count: int) -> None:
    """Remove tar files of an earlier call that had more of them; no other file."""
    for tar in folder.glob(f"{stem}-??????.tar"):
        number = tar.name[len(stem) + 1 : -4]
        if number.isdigit() and int(number) >= count and "source" in (_index(tar) or {}):
            tar.unlink()
            shards.index_path(tar).unlink()
