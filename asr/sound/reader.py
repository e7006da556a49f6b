"""Open sound files of any kind, in one way for all code that reads audio.

``open_recording`` finds out the kind of a file, the place of the sound in it, and its decoder: libsndfile, with the
parts of the file that it should see, or ffmpeg. Axes: n samples, c channels.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import shutil
import tempfile
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

from asr.data import shards
from asr.errors import DataError, os_reason
from asr.sound import ffmpeg, mpeg, ogg
from asr.sound.containers import MPEG_CODES, find_samples
from asr.sound.decoders import Chain, MpegDecoder, Open, Sndfile, SoundDecoder, reason_of
from asr.sound.recording import Recording
from asr.sound.splice import FilePart, Spliced, reader_at

_NAMES = "aif aifc aiff au caf flac mp2 mp3 mpga nist oga ogg opus rf64 snd sph voc w64 wav wave"
#: of files that are read: by libsndfile, and by ffmpeg
SUFFIXES = ffmpeg.SUFFIXES | frozenset(f".{name}" for name in _NAMES.split())
#: bytes of the file's beginning that show its kind and the place of its samples
_HEAD = 4096
#: files up to this size are read at once for a scan of every byte; larger ones are mapped
_READ_WHOLE = 1 << 26
#: number of MP3 files whose frames are cached, since many parts of one recording may be read: 2.4 MB per hour
_KEPT = 64
#: Ogg: seconds that are decoded before an offset
_RUN_IN_S = 1.0
_MPEG_SUFFIXES = (".mp3", ".mp2", ".mp1", ".mpga")
_HEADERLESS = (".raw", ".pcm", ".s16", ".s16le", ".sw", ".ulaw", ".alaw", ".ul", ".al", ".f32", ".f32le")

#: a path, also of a member of a tar file (``asr.data.shards``), or the content of a file
Source = Path | bytes


def open_recording(source: Source, where: str | Path = "", closing: ExitStack | None = None) -> Recording:
    """Open a sound file.

    Args:
        where: its name in errors; default: the path.
        closing: what is closed together with the recording.

    Raises:
        DataError: the file is missing, empty or not audio, or it needs ffmpeg, which is not installed.
    """
    where = where or ("bytes" if isinstance(source, bytes) else source)
    size = check_present(source, where)
    closing = closing or ExitStack()
    try:
        decoder = _decoder(source, where, size, closing)
        closing.callback(decoder.close)
        return Recording(decoder, where, closing)
    except BaseException:
        closing.close()
        raise


def _decoder(source: Source, where: str | Path, size: int, closing: ExitStack) -> SoundDecoder:
    suffix = Path(where).suffix.lower()
    program = ffmpeg.available() if suffix in ffmpeg.SUFFIXES else None
    reason = ""
    if program is None:
        soundfile_errors = Sndfile.errors()
        try:
            return _native(source, where, size, closing)
        except soundfile_errors as error:
            reason = reason_of(error)
        program = ffmpeg.available()

    if suffix in _HEADERLESS:
        raise DataError(
            "samples without a header: their rate and format are not known; make a WAV of them, for example "
            f"sox -t raw -r 16000 -e signed -b 16 -c 1 {Path(where).name} OUT.wav",
            where,
        )
    if program is None and suffix in ffmpeg.SUFFIXES:
        raise DataError(f"{suffix} is read through ffmpeg, which is not on the PATH; {ffmpeg.INSTALL}", where)
    if program is None:
        readable = "WAV, FLAC, SPHERE, MP3 and Ogg are, most others where ffmpeg is installed (it is not)"
        raise DataError(f"not audio that can be read ({reason}); {readable}", where)
    return ffmpeg.FfmpegDecoder(program, _on_disk(source, closing), where)


def _native(source: Source, where: str | Path, size: int, closing: ExitStack) -> SoundDecoder:
    """Return the decoder by libsndfile, with the parts of the file that it should see."""
    try:
        file = closing.enter_context(_open_file(source))
    except OSError as error:
        raise DataError(f"cannot read the audio: {os_reason(error)}", where) from error
    start = 0
    head = file.read(_HEAD)
    if (tagged := mpeg.id3_bytes(head)) and tagged < size:
        start = tagged
        file.seek(start)
        head = file.read(_HEAD)
    whole = partial(_for_libsndfile, source)

    if head[:4] == b"OggS":
        return _ogg(file, start, size, whole)

    area = find_samples(file, size, head) if not start else None
    if area is not None:
        decoder: SoundDecoder | None = None
        if area.code in MPEG_CODES:
            decoder = _mpeg(source, file, area.start, area.start + area.num_bytes) or Sndfile(whole)
        else:
            decoder = Sndfile(_spliced(file, area.parts(file)) if area.patches else whole, compared=True)
        decoder.truncated = area.cut or decoder.truncated
        decoder.notes = (area.more,) if area.more else ()
        return decoder

    is_mpeg = start or Path(where).suffix.lower() in _MPEG_SUFFIXES or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
    if is_mpeg and head[:4] != b"fLaC" and (decoder := _mpeg(source, file, start, size)):
        return decoder
    return Sndfile(_spliced(file, [(start, size - start)]) if start else whole)


def _ogg(file: BinaryIO, start: int, size: int, whole: Open) -> SoundDecoder:
    links, cut = ogg.read_links(file, start, size)
    if links == [(0, size)]:
        decoder: SoundDecoder = Sndfile(whole, _RUN_IN_S)
        decoder.truncated = cut
        return decoder

    decoders: list[SoundDecoder] = []
    for link in links:
        try:
            decoders.append(Sndfile(_spliced(file, [link]), _RUN_IN_S))
        except Sndfile.errors() as error:
            if not decoders:
                raise
            number = f"stream {len(decoders) + 1} of {len(links)}"
            cut = f"truncated or damaged: {number} cannot be decoded ({reason_of(error)}); fetch it again"
            break
    decoder = Chain(decoders)
    decoder.truncated = cut
    return decoder


def _mpeg(source: Source, file: BinaryIO, start: int, stop: int) -> SoundDecoder | None:
    """Return a decoder of the MP3 frames between two places; None: there are none."""
    if isinstance(source, Path) and not shards.is_member(source):
        status = source.stat()
        runs, cut = _scanned(str(source), status.st_size, status.st_mtime_ns, start, stop)
    else:
        file.seek(0)
        runs, cut = mpeg.scan(file.read(), start, stop)
    if not runs:
        return None
    decoder = Chain([MpegDecoder(run, file) for run in runs])
    decoder.truncated = cut
    return decoder


@lru_cache(_KEPT)
def _scanned(path: str, size: int, mtime_ns: int, start: int, stop: int) -> mpeg.Scanned:
    """Return the frames of a file of that size and time, which are part of the key of the cache."""
    with Path(path).open("rb") as file:
        if size <= _READ_WHOLE:
            return mpeg.scan(file.read(), start, stop)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return mpeg.scan(data, start, stop)


def _open_file(source: Source) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else shards.open_bytes(source)


def _for_libsndfile(source: Source) -> BinaryIO | bytes | str:
    """Return the name of a file, for libsndfile to open; of a tar member, or of content, an open file."""
    if isinstance(source, bytes) or shards.is_member(source):
        return _open_file(source)
    if source.suffix.lower() in _HEADERLESS:  # by its name, libsndfile would take the file for one without a header
        return io.BytesIO(source.read_bytes())
    return os.fsencode(source) if os.name == "posix" else str(source)


def _spliced(file: BinaryIO, parts: list[FilePart]) -> Open:
    return lambda: Spliced(reader_at(file), parts)


def _on_disk(source: Source, closing: ExitStack) -> Path:
    """Return a name under which ffmpeg can open the file."""
    if isinstance(source, Path) and not shards.is_member(source):
        return source
    path = temporary_file(closing)
    with _open_file(source) as content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
    return path


def temporary_file(closing: ExitStack) -> Path:
    """Make an empty file that is removed when ``closing`` ends."""
    handle, name = tempfile.mkstemp(prefix="asr-")
    os.close(handle)
    closing.callback(Path(name).unlink, missing_ok=True)
    return Path(name)


def check_present(source: Source, where: str | Path) -> int:
    """Return the size of an audio file.

    Raises:
        DataError: it is missing, empty, a folder, a pipe, or unreadable.
    """
    if isinstance(source, bytes):
        if not source:
            raise DataError("is empty (0 bytes)", where)
        return len(source)

    is_member = shards.is_member(source)
    try:
        size = shards.num_bytes(source)
    except OSError as error:
        if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(source)):
            raise DataError(_no_address(address[1].lower(), str(source)), where) from error
        raise DataError(f"cannot read the audio: {os_reason(error)}", where) from error
    except ValueError as error:  # a NUL or half a surrogate pair: no file can have that name
        raise DataError(f"cannot read the audio: the name is impossible ({error})", where) from error
    if not is_member and source.is_dir():
        raise DataError("is a folder, expected an audio file", where)
    if not is_member and not source.is_file():
        raise DataError("is a pipe or a device, expected an audio file", where)
    if size == 0:
        raise DataError("the file is empty (0 bytes)", where)
    return size


def _no_address(scheme: str, name: str) -> str:
    """Say what to do instead of naming an address."""
    if scheme == "file":
        return "is an address, expected a file's name: leave file:// away"
    address = re.sub(r":/+", "://", name, count=1)  # a path has lost a slash
    return f"is an address, expected a file: nothing is downloaded here; fetch it first (curl -LO {address})"
