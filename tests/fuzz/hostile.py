"""A folder of 200 files that nobody should be hurt by, among ten good recordings. All are small."""

from __future__ import annotations

import gzip
import os
import random
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tests.builders import sine, sphere_bytes, tones
from tests.fuzz import seeds
from tests.fuzz.mutate import damaged

NUM_GOOD, NUM_HOSTILE = 10, 200
TEXT = "abcd dcba"
_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "au": ("AU", "PCM_16"),
}


@dataclass
class Folder:
    """The folder, and the names in it: good recordings, and what is hostile (bytes where they are no UTF-8)."""

    path: Path
    good: list[str]
    hostile: list[bytes]


def build(path: Path) -> Folder:
    """Make the folder, always the same one."""
    path.mkdir()
    good = _good(path)
    before = _names_in(path)
    for write in (_formats, _wrong_types, _lists, _wav_headers, _other_headers, _special, _names, _texts):
        write(path)

    rng = random.Random("hostile")
    number = 0
    while (hostile := _names_in(path) - before) and len(hostile) < NUM_HOSTILE:
        suffix = list(_FORMATS)[number % len(_FORMATS)]
        content = seeds.sound(*_FORMATS[suffix])
        (path / f"damaged-{number:03}.{suffix}").write_bytes(damaged(f"a.{suffix}", content, content, rng))
        number += 1
    assert len(hostile) == NUM_HOSTILE, f"{len(hostile)} hostile files"
    return Folder(path, good, sorted(hostile))


def _names_in(path: Path) -> set[bytes]:
    return {os.fsencode(each.name) for each in path.iterdir()}


def _good(path: Path) -> list[str]:
    """Write good recordings, some of names that need care, each with its text beside it."""
    names = [
        "good one",
        "good-two",
        "good'three",
        'good"four',
        "good;five",
        "good$(six)",
        "good%seven",
        "góód",
        "good\u3000nine",
        "-good",
    ]
    assert len(names) == NUM_GOOD
    for i, name in enumerate(names):
        suffix = ("wav", "flac", "ogg")[i % 3]
        soundfile.write(path / f"{name}.{suffix}", tones(TEXT, np.random.default_rng(i)), 16000)
        (path / f"{name}.txt").write_text(TEXT + "\n", encoding="utf-8")
    return [f"{name}.{('wav', 'flac', 'ogg')[i % 3]}" for i, name in enumerate(names)]


def _formats(path: Path) -> None:
    """Every format: cut, empty, of zeros, of anything, with a giant promise."""
    rng = random.Random("formats")
    for suffix, kind in _FORMATS.items():
        content = seeds.sound(*kind)
        giant = content
        for name in (b"RIFF", b"data", b"FORM", b"COMM", b"SSND", b"caff", b"riff", b".snd"):
            at = content[:4096].find(name)
            if at >= 0:
                giant = giant[: at + 4] + b"\x7f\xff\xff\xf0" + giant[at + 8 :]
        contents = {
            "half": content[: len(content) // 2],
            "head": content[:20],
            "empty": b"",
            "zeros": bytes(3000),
            "random": rng.randbytes(3000),
            "giant": giant,
            "twice": content[:100] + content[100:] * 2,
        }
        for name, data in contents.items():
            (path / f"{name}.{suffix}").write_bytes(data)


def _wrong_types(path: Path) -> None:
    contents = {
        "text.wav": b"a b c\n" * 50,
        "json.wav": b'{"a": [1, 2]}',
        "html.wav": b"<!DOCTYPE html><html><p>404</p></html>",
        "xml.mp3": b"<?xml version='1.0'?><a/>",
        "pdf.wav": b"%PDF-1.7\n" + bytes(100),
        "zip.flac": b"PK\x03\x04" + bytes(99),
        "gzip.wav": gzip.compress(bytes(100_000), mtime=0),
        "tar.wav": seeds.tar(),
        "png.ogg": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "pickle.wav": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
        "program.wav": b"\x7fELF\x02\x01\x01" + bytes(99),
        "script.wav": b"#!/bin/sh\necho x > ran\n",
        "sqlite.mp3": b"SQLite format 3\0" + bytes(99),
        "lfs.wav": b"version https://git-lfs",
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)


def _lists(path: Path) -> None:
    """Playlists and other files that name files: a program that plays sound may open what they name."""
    contents = {
        "list.m4a": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood-two.flac\n#EXT-X-ENDLIST\n",
        "list.mp4": "ffconcat version 1.0\nfile good-two.flac\n",
        "list.webm": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "list.mkv": '<?xml version="1.0"?><MPD><Period><BaseURL>good-two.flac</BaseURL></Period></MPD>\n',
        "list.mov": "#EXTM3U\nconcat:good-two.flac|good-two.flac\n",
        "list.aac": "[playlist]\nFile1=good-two.flac\n",
        "list.avi": "<ASX version='3'><entry><ref href='good-two.flac'/></entry></ASX>",
        "%03d.m4a": "good-two.flac",
    }
    for name, content in contents.items():
        (path / name).write_text(content, encoding="utf-8")


def _wav(
    code: int = 1, channels: int = 1, rate_hz: int = 16000, bits: int = 16, data: bytes = bytes(3200), more: bytes = b""
) -> bytes:
    block = channels * bits // 8 % 65536
    header = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * block % (1 << 32), block, bits)
    chunks = b"fmt " + struct.pack("<I", len(header)) + header + more + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _wav_headers(path: Path) -> None:
    nan, infinite = (np.full(1000, value, "<f4").tobytes() for value in (np.nan, np.inf))
    contents = {
        "rate-0": _wav(rate_hz=0),
        "rate-1": _wav(rate_hz=1),
        "rate-most": _wav(rate_hz=0xFFFFFFFF),
        "channels-0": _wav(channels=0),
        "channels-65535": _wav(channels=65535),
        "bits-0": _wav(bits=0),
        "bits-65535": _wav(bits=65535),
        "code-0": _wav(code=0),
        "code-fffe": _wav(code=0xFFFE),
        "code-mp3": _wav(code=0x55),
        "nan": _wav(3, bits=32, data=nan),
        "inf": _wav(3, bits=32, data=infinite),
        "no-data": _wav()[:36],
        "no-samples": _wav(data=b""),
        "chunks": _wav(more=b"LIST\0\0\0\0" * 5000),
        "chunk-giant": _wav(more=b"LIST\xff\xff\xff\xff"),
        "no-fmt": _wav().replace(b"fmt ", b"fmx "),
    }
    for name, content in contents.items():
        (path / f"{name}.wav").write_bytes(content)


def _other_headers(path: Path) -> None:
    flac, sphere = seeds.sound("FLAC", "PCM_16"), sphere_bytes(sine(0.2))
    long_flac = bytearray(flac)
    long_flac[21:26] = bytes([long_flac[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])
    contents = {
        "long.flac": bytes(long_flac),
        "block-0.flac": flac[:8] + bytes(4) + flac[12:],
        "rate-0.flac": flac[:18] + bytes(3) + flac[21:],
        "giant-tag.flac": flac[:4] + b"\x04\xff\xff\xff" + flac[42:],
        "count.sph": sphere.replace(b"sample_count -i 3200", b"sample_count -i 999999999999"),
        "minus.sph": sphere.replace(b"sample_count -i 3200", b"sample_count -i -3200"),
        "digits.sph": sphere.replace(b"   1024\n", b"9999999\n"),
        "rate.sph": sphere.replace(b"-i 16000", b"-i 0"),
        "tag.mp3": b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
        "frames.mp3": b"\xff\xfb\x90\x00" * 500,
        "sync.mp3": b"\xff" * 5000,
        "pages.ogg": (b"OggS\0\2" + bytes(20) + b"\xff" + b"\xff" * 255) * 10,
        "pcm.raw": bytes(2000),
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)


def _special(path: Path) -> None:
    """What is no regular file: pipes, links, devices, a socket, folders."""
    for name in ("pipe.wav", "pipe.flac", "pipe.mp3", "pipe.m4a", "pipe.txt", "pipe.jsonl"):
        os.mkfifo(path / name)
    links = {
        "nowhere.wav": "missing.wav",
        "nowhere.mp4": "../../missing",
        "self.wav": "self.wav",
        "loop-1.wav": "loop-2.wav",
        "loop-2.wav": "loop-1.wav",
        "above": "..",
        "here.wav": ".",
        "zero.wav": "/dev/zero",
        "full.flac": "/dev/full",
        "null.wav": "/dev/null",
        "urandom.mp3": "/dev/urandom",
        "tty.wav": "/dev/tty",
    }
    for name, target in links.items():
        (path / name).symlink_to(target)
    for name in ("folder.wav", "folder.mp3", "folder.txt"):
        (path / name).mkdir()
    (path / "locked.wav").write_bytes(b"")
    (path / "locked.wav").chmod(0)
    here = Path.cwd()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as server:  # a file system without sockets, a long path
        os.chdir(path)  # a socket's path may have 107 bytes
        server.bind("socket.wav")
    os.chdir(here)


def _names(path: Path) -> None:
    """Files that are no audio, of names that a terminal or a program could take for something else."""
    names = (
        "new\nline/return\r/tab\t/bell\a/color\x1b[31m/title\x1b]0;x\a/c1\x9b31m/right\u202eto/isolate\u2066/zero\u200bwidth/"
        "separator\u2028/nul\u2400/tilde~/e\u0301/\xe9/A/a/CON/%s%n/{0}/`id`/a|b/<b>/*/[x]/?/#/http:/concat:a/pipe:0/--help/"
        "a.tar#b/back\\slash/ /a b  /😀/name=value/..wav/" + "x" * 251
    ).split("/")
    for name in names:
        (path / f"{name}.wav").write_bytes(b"no audio")
    for raw in (b"latin\xe9.wav", b"\xff\xfe.wav", b"\xed\xa0\x80.wav", b"half\xc3.flac"):
        Path(os.fsdecode(os.fsencode(path) + b"/" + raw)).write_bytes(b"no audio")


def _texts(path: Path) -> None:
    contents = {
        "latin.txt": b"caf\xe9\n",
        "long.txt": b"a" * 100_000,
        "zeros.txt": bytes(100),
        "escape.txt": b"\x1b[31mred\n",
        "manifest.jsonl": b"[" * 5000,
        "config.json": b"{}",
        "config.yaml": b"a: [",
        "model.safetensors": b"\xff" * 16,
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)
