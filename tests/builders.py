"""Small inputs for tests: waves, audio files, and a corpus whose every character is a tone.

Units: seconds and hertz as the names say; waves are float32 in [-1, 1].
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.config import RunConfig, override
from asr.data import audio
from asr.data.manifest import Utterance, write

Wave = npt.NDArray[np.float32]

ALPHABET = "abcd "
CHARACTER_S = 0.12  # one tone
MARGIN_S = 0.06  # quiet before the first and after the last tone


def sine(duration_s: float = 1.0, frequency_hz: float = 440.0, rate_hz: int = 16000, amplitude: float = 0.3) -> Wave:
    """A pure tone."""
    n = np.arange(round(duration_s * rate_hz))
    return (amplitude * np.sin(2 * np.pi * frequency_hz * n / rate_hz)).astype(np.float32)


def noise(duration_s: float = 1.0, rate_hz: int = 16000, seed: int = 0, amplitude: float = 0.1) -> Wave:
    """White noise, uniform in [-amplitude, amplitude]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-amplitude, amplitude, round(duration_s * rate_hz)).astype(np.float32)


def dominant_hz(wave_n: Wave, rate_hz: int) -> float:
    """The frequency of the largest bin of the wave's spectrum."""
    spectrum = np.abs(np.fft.rfft(wave_n * np.hanning(len(wave_n))))
    return float(np.argmax(spectrum) * rate_hz / len(wave_n))


def write_wav(path: Path, wave_n: Wave | None = None, rate_hz: int = 16000) -> Path:
    """A 16-bit mono WAV (or FLAC, by suffix): one second of a tone unless a wave is given."""
    audio.save(path, sine(rate_hz=rate_hz) if wave_n is None else wave_n, rate_hz)
    return path


def without_length(path: Path) -> Path:
    """A FLAC file as a program writes it to a pipe: it does not say how many samples it has."""
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # of STREAMINFO: how many samples there are, 0 where it is not known
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


def sphere_bytes(wave_n: Wave, rate_hz: int = 16000) -> bytes:
    """A NIST SPHERE file by hand: a 1,024-byte text header, then 16-bit little-endian PCM."""
    fields = [
        f"sample_count -i {len(wave_n)}",
        "sample_n_bytes -i 2",
        "channel_count -i 1",
        "sample_byte_format -s2 01",
        f"sample_rate -i {rate_hz}",
        "sample_coding -s3 pcm",
        "end_head",
    ]
    header = ("NIST_1A\n   1024\n" + "\n".join(fields) + "\n").encode().ljust(1024)
    return header + np.round(np.asarray(wave_n) * 32767).astype("<i2").tobytes()


def promising(content: bytes, num_samples: int) -> bytes:
    """A FLAC or Ogg file whose header promises this many samples, whatever it holds."""
    new = bytearray(content)
    if new[:4] == b"fLaC":  # 36 bits in the middle of the first block
        kept = int.from_bytes(new[18:26], "big") >> 36 << 36
        new[18:26] = (kept | num_samples).to_bytes(8, "big")
        return bytes(new)
    last = new.rindex(b"OggS")
    new[last + 6 : last + 14] = num_samples.to_bytes(8, "little")
    new[last + 22 : last + 26] = bytes(4)
    checksum = 0
    for byte in new[last:]:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    new[last + 22 : last + 26] = checksum.to_bytes(4, "little")
    return bytes(new)


def speaker_names(count: int) -> list[str]:
    return [f"spk{i:02d}" for i in range(count)]


def random_text(rng: np.random.Generator, alphabet: str = ALPHABET, longest: int = 8) -> str:
    """A normalised text over the alphabet: not empty, single spaces, none at the ends."""
    text = ""
    while not text:
        drawn = "".join(rng.choice(list(alphabet), size=int(rng.integers(1, longest + 1))))
        text = " ".join(drawn.split())
    return text


def tones(text: str, rng: np.random.Generator, rate_hz: int = 16000) -> Wave:
    """A wave that says the text: each character is a tone of its own (a space is quiet), with a little noise.

    A small model learns it in seconds, so training tests can ask for real progress.
    """
    pieces = [np.zeros(round(MARGIN_S * rate_hz), np.float32)]
    for character in text:
        # 150 Hz apart from 400 Hz on: far more than one mel band, below 4 kHz for the whole alphabet
        frequency_hz = 400.0 + 150.0 * (ord(character.lower()) - ord("a"))
        piece = sine(CHARACTER_S, frequency_hz if character != " " else 100.0, rate_hz)
        pieces.append(piece * (0.05 if character == " " else 1.0))
    pieces.append(pieces[0])
    wave = np.concatenate(pieces)
    return (wave + noise(len(wave) / rate_hz, rate_hz, int(rng.integers(2**31)), 0.01)[: len(wave)]).astype(np.float32)


def build_corpus(
    folder: Path,
    num_utterances: int = 8,
    seed: int = 0,
    *,
    name: str = "train",
    alphabet: str = ALPHABET,
    longest: int = 8,
    num_speakers: int = 4,
    rate_hz: int = 16000,
) -> Path:
    """Writes ``<name>.jsonl`` and its WAV files under a folder; the manifest's path. The same seed, the same corpus."""
    rng = np.random.default_rng(seed)
    speakers = speaker_names(num_speakers)
    rows = []
    for i in range(num_utterances):
        id_ = f"{name}-{i:04d}"
        text = random_text(rng, alphabet, longest)
        wave = tones(text, rng, rate_hz)
        write_wav(folder / "wav" / f"{id_}.wav", wave, rate_hz)
        rows.append(Utterance(id_, f"wav/{id_}.wav", len(wave) / rate_hz, text, speakers[i % num_speakers]))
    manifest = folder / f"{name}.jsonl"
    write(manifest, rows)
    return manifest


def tiny_config(*settings: str) -> RunConfig:
    """A run that takes a fraction of a second: one convolution, one GRU layer of 16 units, float32 on one thread."""
    base = [
        "features.num_mels=16",
        "model.conv=[{channels: 4, kernel_tf: [5, 5], stride_tf: [2, 2]}]",
        "model.layers=1",
        "model.hidden=16",
        "batch.max_utterances=4",
        "optim.lr=0.01",
        "train.epochs=2",
        "train.precision=fp32",
        "train.device=cpu",
        "train.threads=1",
    ]
    return override(RunConfig(), [*base, *settings])


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract a tar file that a test has made. Python 3.11.2, as Debian 12 has it, knows no filters yet."""
    archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
