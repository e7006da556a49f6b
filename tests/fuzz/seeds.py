"""Valid files for the fuzzer to damage, made anew each time and always of the same bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.builders import build_corpus, noise, sine, tiny_config, tones


@dataclass(frozen=True)
class Seed:
    """A folder of files that a parser takes, by their paths in it, and those of them that are damaged."""

    files: dict[str, bytes]
    damaged: tuple[str, ...]


def one(name: str, content: bytes | str, **others: bytes) -> Seed:
    """Return a seed of one file."""
    content = content.encode() if isinstance(content, str) else content
    return Seed({name: content, **others}, (name,))


def of_folder(folder: Path, damaged: Iterable[str]) -> Seed:
    """Return the seed of all files below a folder; ``damaged``: patterns of those to damage."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    chosen = [name for name in files if any(Path(name).match(pattern) for pattern in damaged)]
    assert chosen, f"no file of {folder} is one of {damaged}"
    return Seed(files, tuple(chosen))


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


# --- sound ------------------------------------------------------------------------------------------------------------


def sound(format_: str, subtype: str, channels: int = 1, rate_hz: int = 16000, seconds: float = 0.4) -> bytes:
    """Return a short recording as libsndfile writes it."""
    wave = np.stack(
        [sine(seconds, 300.0 + 200 * c, rate_hz) + noise(seconds, rate_hz, c, 0.02) for c in range(channels)], 1
    )
    out = io.BytesIO()
    soundfile.write(out, wave, rate_hz, format=format_, subtype=subtype)
    return out.getvalue()


def by_ffmpeg(scratch: Path, name: str, *options: str) -> bytes:
    """Return a recording as ffmpeg writes it, always of the same bytes."""
    program = shutil.which("ffmpeg")
    assert program is not None
    source, target = scratch / "source.wav", scratch / name
    soundfile.write(source, sine(0.5), 16000)
    same = ("-fflags", "+bitexact", "-flags", "+bitexact", "-map_metadata", "-1")
    command = [program, "-v", "error", "-y", "-i", str(source), *options, *same, str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target.read_bytes()


# --- data folders and corpora -----------------------------------------------------------------------------------------


def wav(text: str = "ab", seed: int = 0) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, tones(text, np.random.default_rng(seed), 8000), 8000, format="WAV", subtype="PCM_16")
    return out.getvalue()


def rows(count: int = 3) -> list[dict[str, Any]]:
    """Return the rows of a manifest whose audio is ``a.wav``, ``b.wav``, … of 8 kHz."""
    found = []
    for i in range(count):
        row: dict[str, Any] = {
            "id": f"u{i}",
            "audio_path": f"{'abc'[i]}.wav",
            "duration_s": 0.36,
            "text": "ab",
            "speaker": f"s{i}",
        }
        found.append(row)
    found[0] |= {"offset_s": 0.05, "duration_s": 0.2, "meta": {"note": "é", "n": [1, {"x": None}]}}
    found[1] |= {"channel": 1}
    return found


def with_audio(**files: str) -> Seed:
    """Return a seed of text files (the name's double underscore is a dot) beside three recordings."""
    texts = {name.replace("__", "."): text.encode() for name, text in files.items()}
    audio = {f"{name}.wav": wav(seed=i) for i, name in enumerate("abc")}
    return Seed(audio | texts, tuple(texts))


def corpus(scratch: Path) -> Path:
    """Write a data folder of train and dev; its path."""
    data = scratch / "data"
    build_corpus(data, 4, seed=1, rate_hz=8000)
    build_corpus(data, 2, seed=2, name="dev", rate_hz=8000)
    return data


def tar(mode: Callable[[bytes], bytes] = bytes, format_: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of a few files, links and a folder, packed by a function such as ``gzip.compress``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        contents = {"top/a.txt": b"text\n" * 200, "top/sub/b.wav": wav(), "top/" + "long/" * 30 + "c.txt": b"c"}
        folder = tarfile.TarInfo("top/sub")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind, name in ((tarfile.LNKTYPE, "top/hard.txt"), (tarfile.SYMTYPE, "top/soft.txt")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "top/a.txt"
            archive.addfile(link)
    return mode(out.getvalue())


def packed(kind: str) -> bytes:
    """Return the archive as ``tar``, ``gz``, ``xz`` or ``bz2``."""
    ways: dict[str, Callable[[bytes], bytes]] = {
        "tar": bytes,
        "gz": lambda data: gzip.compress(data, mtime=0),
        "xz": lzma.compress,
        "bz2": bz2.compress,
    }
    return tar(ways[kind])


# --- models -----------------------------------------------------------------------------------------------------------

ARPA = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.2\t<unk>
-99\t<s>\t-0.4
-0.9\t</s>
-0.7\ta\t-0.3
-0.8\tab\t-0.2
-1.1\tcd

\\2-grams:
-0.4\t<s> a\t-0.1
-0.5\ta ab\t-0.2
-0.6\tab cd
-0.3\tab </s>
-0.2\tcd </s>

\\3-grams:
-0.1\t<s> a ab
-0.2\ta ab </s>

\\end\\
"""

TEXT = "a ab\nab cd\ncd a b\nabba dad\na cab\nbad dab\na b c d\nab ab\n"


def settings(*more: str) -> tuple[str, ...]:
    """Return the settings of a model as small as can be, at 8 kHz."""
    conv = "model.conv=[{channels: 2, kernel_tf: [5, 5], stride_tf: [2, 2]}]"
    return ("audio.sample_rate_hz=8000", "features.num_mels=8", conv, "model.hidden=8", *more)


def run_config() -> Any:
    return tiny_config(*settings("train.epochs=1", "batch.max_utterances=2"))
