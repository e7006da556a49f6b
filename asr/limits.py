"""The most that a file may ask for, whoever made it. ``docs/security.md`` compares the limits with real corpora.

Sizes are in bytes.
"""

from __future__ import annotations

from pathlib import Path

from asr.errors import ConfigError, DataError

#: a JSON document or another small file of a model or data folder
SMALL_FILE = 16 << 20
#: a config that people write, in YAML; the recipes' have up to 4 kB
CONFIG_FILE = 256 << 10
#: the list of what a cache keeps of a manifest; 100 MB for 2.5 million clips (Common Voice, all English)
CACHE_INDEX = 1 << 30
#: the header of a safetensors file; Parakeet with 1.1 billion weights has 0.2 MB, its checkpoint 1.1 MB, and that of
#: the most layers that a config can ask for 4 MB
TENSOR_HEADER = 8 << 20
#: tokens of a vocabulary, and letters of one; the largest that we know of for CTC has 10,288 (omniASR), and espeak's
#: longest sign for a sound 7 letters, SentencePiece's pieces 16
TOKENS = 1 << 17
TOKEN_LETTERS = 64
#: the config and the files of a model of NeMo; a config with a vocabulary has some 100 kB
NEMO_CONFIG = 1 << 20
NEMO_MEMBERS = 1000
#: values of the spectrum in a second of audio; 6.6 million: windows of half a second at 192 kHz, a hop of 10 ms
SPECTRUM_PER_SECOND = 1 << 23
#: values that a layer has for one step; 158,301: an MLP's window of 99 frames of 1,599 values (stacked MFCCs, HTK)
STEP_VALUES = 1 << 18
#: values of a layer's attention in half a minute of sound; 36 million: 16 heads of 50 steps a second (WavLM, large)
ATTENTION = 1 << 28
#: one line of a text, a manifest or an ARPA file: text8, a corpus of one line, has 100 MB
LINE = 128 << 20
#: blank lines in a row of a text for a language model, where each is a sentence without words
BLANK_LINES = 1_000_000
#: a table, a transcript or a document that is read as a whole: Common Voice's largest table has about 1 GB
WHOLE_FILE = 4 << 30
#: what a tar file says of one member: its name has 4 KiB at most, its attributes 64 KiB on Linux
TAR_HEADER = 1 << 20
#: members of a tar file: Multilingual LibriSpeech, English, has 10.8 million, Common Voice 2.6, LibriSpeech 0.3
TAR_MEMBERS = 20_000_000
#: audio from standard input or a pipe, in a temporary file: 48 hours at 96 kHz, stereo, 16 bits, are 66 GB
PIPED_AUDIO = 64 << 30
#: seconds of a recording, and of times in one: 7 days, where a recorder that runs day and night fills 2 days in a file
RECORDING_S = 7 * 24 * 3600
#: samples of an utterance, which is held in memory as a whole: 4.7 hours at 16 kHz, 1.5 at 48 kHz. The longest rows of
#: test sets are meetings and talks of an hour or two; ``asr transcribe`` reads in blocks and has no such limit
UTTERANCE_SAMPLES = 1 << 28
#: Hz of a sound file: the fastest converters that are sold have 768 kHz
SAMPLE_RATE_HZ = 768_000
#: channels of a sound file: as libsndfile; arrays of microphones have up to 1,020
CHANNELS = 1024
#: chunks of a sound file before its samples; a file with marks, loops and notes has some dozens
CHUNKS = 10_000
#: bytes of a sound file before its samples; pictures in the header have a few MiB
SOUND_HEADER = 64 << 20
#: streams of different kinds in a row in one MP3 or Ogg file: a day of web radio has some 500, one for each title
STREAMS = 2000
#: places in an MP3 file that look like frames and are none: chance makes some 150 in 1 MiB of other data
FALSE_FRAMES = 100_000
#: seconds that ffmpeg may work without a byte of sound; it decodes minutes of sound in a second
FFMPEG_QUIET_S = 60.0
#: one piece of memory that ffmpeg may ask for; the index of an MP4 of 48 hours has some 200 MB
FFMPEG_PIECE = 1 << 30
#: what is read of ffmpeg's messages, of their beginning and of their end
FFMPEG_MESSAGES = 1 << 20
#: reference words times words, of one alignment with the costs of sclite: a byte each; 7 hours of talk in one text
ALIGNMENT = 1 << 32
#: a compressed file may unpack to this many times its size, and to ``_UNPACKED_FREE`` in any case
UNPACKED_RATIO = 100
_UNPACKED_FREE = 64 << 20
#: a download whose size nobody states; the largest archive of a corpus that we know of has 2.4 TB (MLS, English)
DOWNLOAD = 4 << 40
#: what such a download leaves free on the disk
DISK_SPARE = 1 << 30
#: what audio from a pipe leaves free where temporary files are: often a small disk, or memory
TEMPORARY_SPARE = 256 << 20


def check_unpacked(packed: int, unpacked: int, path: Path) -> None:
    """Refuse a compressed file that grows too much, while it is unpacked.

    Args:
        packed: bytes of the file that were read so far, or all of them.
        unpacked: bytes that came out of them, or that its headers claim.

    Raises:
        DataError: it is no text, archive or sound that anybody compressed for use.
    """
    if unpacked > _UNPACKED_FREE + UNPACKED_RATIO * packed:
        raise DataError(
            f"unpacks to more than {UNPACKED_RATIO} times its size (over {unpacked >> 20:,} MiB), which no real text "
            "or corpus does; unpack it yourself if you trust it",
            path,
        )


def check_spectrum(fft: int, hop: int, sample_rate_hz: int) -> None:
    """Refuse features that make more of a second of audio than any front-end does; lengths are in samples.

    Raises:
        ConfigError: the hop is too short for the FFT.
    """
    per_second = (fft // 2 + 1) * sample_rate_hz // hop
    if per_second > SPECTRUM_PER_SECOND:
        raise ConfigError(
            f"features: an FFT of {fft} every {hop} samples gives {per_second:,} values per second of audio, "
            f"at most {SPECTRUM_PER_SECOND:,}; use a longer hop_s or a shorter FFT",
            key="features.hop_s",
        )


def check_attention(heads: int, step_s: float) -> None:
    """Refuse attention that compares more than any network does; its memory grows with the square of the steps.

    Args:
        step_s: seconds per step.

    Raises:
        ConfigError: there are too many heads, or steps per second.
    """
    values = heads * (30 / step_s) ** 2
    if values > ATTENTION:
        raise ConfigError(
            f"model: attention with {heads} heads and {1 / step_s:,.0f} steps per second has {values:,.0f} values in "
            f"30 s of sound, at most {ATTENTION:,}",
            key="model",
        )


def check_step(layer: str, values: int) -> None:
    """Refuse a layer that has more values for one step than any network needs: they take memory when it is used.

    Raises:
        ConfigError: it has more.
    """
    if values > STEP_VALUES:
        raise ConfigError(f"model: {layer} has {values:,} values for each step, at most {STEP_VALUES:,}", key="model")
