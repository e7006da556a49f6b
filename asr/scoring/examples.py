"""Single utterances to hear and to see: their audio as FLAC, and the picture of what the model makes of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import soundfile

from asr.batch import load_wave
from asr.data.audio import Wave
from asr.data.manifest import Manifest
from asr.errors import DataError
from asr.model.checkpoint import AcousticModel
from asr.scoring.picture import draw_png
from asr.scoring.report import Example


def examples(model: AcousticModel, manifest: Manifest, ids: Sequence[str]) -> Iterator[Example]:
    """The utterances of these ids, in their order, each made when it is asked for.

    Audio is what the model hears: one channel at its rate. What cannot be read has a note of why.

    Raises:
        AsrError: matplotlib is not installed (``asr.scoring.picture.check`` says so before the work).
    """
    wanted = set(ids)
    found = {u.id: u for u in manifest if u.id in wanted}
    for id_ in ids:
        try:
            wave_n = load_wave(manifest, found[id_], model.audio.sample_rate_hz, model.audio.resample)
        except DataError as error:
            yield Example(id_, note=str(error))
            continue
        picture = draw_png(model, wave_n, f"{id_}, best path")
        yield Example(id_, flac(wave_n, model.audio.sample_rate_hz), picture)


def flac(wave_n: Wave, sample_rate_hz: int) -> bytes:
    """The samples as a 16-bit FLAC file, which every browser plays. Shapes: (n,)."""
    content = io.BytesIO()
    soundfile.write(content, wave_n, sample_rate_hz, subtype="PCM_16", format="FLAC")
    return content.getvalue()
