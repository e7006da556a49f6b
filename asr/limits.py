"""The most that a file may ask for, whoever made it. ``docs/security.md`` compares the limits with real corpora.

Sizes are in bytes.
"""

from __future__ import annotations

from pathlib import Path

from asr.errors import DataError

#: a JSON document or another small file of a model or data folder
SMALL_FILE = 16 << 20
#: a config that people write, in YAML; the recipes' have up to 4 kB
CONFIG_FILE = 256 << 10
#: the list of what a cache keeps of a manifest; 100 MB for 2.5 million clips (Common Voice, all English)
CACHE_INDEX = 1 << 30
#: the header of a safetensors file; the largest model that a config can ask for has 24 kB, its checkpoint 80 kB
TENSOR_HEADER = 1 << 20
#: one line of a text, a manifest or an ARPA file: text8, a corpus of one line, has 100 MB
LINE = 128 << 20
#: a table, a transcript or a document that is read as a whole: Common Voice's largest table has about 1 GB
WHOLE_FILE = 4 << 30
#: what a tar file says of one member: its name has 4 KiB at most, its attributes 64 KiB on Linux
TAR_HEADER = 1 << 20
#: members of a tar file: Multilingual LibriSpeech, English, has 10.8 million, Common Voice 2.6, LibriSpeech 0.3
TAR_MEMBERS = 20_000_000
#: audio from standard input or a pipe, in a temporary file: 48 hours at 96 kHz, stereo, 16 bits, are 66 GB
PIPED_AUDIO = 64 << 30
#: a compressed file may unpack to this many times its size, and to ``_UNPACKED_FREE`` in any case
UNPACKED_RATIO = 100
_UNPACKED_FREE = 64 << 20
#: a download whose size nobody states; the largest archive of a corpus that we know of has 650 GB (MLS, English)
DOWNLOAD = 1 << 40
#: what such a download leaves free on the disk
DISK_SPARE = 1 << 30
#: what audio from a pipe leaves free where temporary files are: often a small disk, or memory
TEMPORARY_SPARE = 256 << 20


def check_unpacked(packed: int, unpacked: int, path: Path) -> None:
    """Refuse a compressed file that grows too much, while it is unpacked.

    Args:
        packed: bytes of the file that were read so far.
        unpacked: bytes that came out of them.

    Raises:
        DataError: it is no text, archive or sound that anybody compressed for use.
    """
    if unpacked > _UNPACKED_FREE + UNPACKED_RATIO * packed:
        raise DataError(
            f"unpacks to more than {UNPACKED_RATIO} times its size (over {unpacked >> 20:,} MiB), which no real text "
            "or corpus does; unpack it yourself if you trust it",
            path,
        )
