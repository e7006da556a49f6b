"""Single utterances to hear and to see: their audio as FLAC, and the picture of the model's output."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import soundfile

from asr.data.audio import Wave
from asr.data.manifest import Manifest
from asr.errors import DataError
from asr.model.contract import AcousticModel
from asr.scoring.picture import draw_png
from asr.scoring.report import ReportExample
from asr.utterance import load_wave


def examples(model: AcousticModel, manifest: Manifest, ids: Sequence[str]) -> Iterator[ReportExample]:
    """Yield the utterances of these ids, in their order, each made when it is asked for.

    Audio is what the model hears: one channel at its rate. An utterance that cannot be read has a note on why.
    """
    utterances = {u.id: u for u in manifest}
    rate_hz = model.audio.sample_rate_hz
    for id_ in ids:
        try:
            wave_n = load_wave(manifest, utterances[id_], rate_hz, model.audio.resample)
        except DataError as error:
            yield ReportExample(id_, note=str(error))
        else:
            yield ReportExample(id_, flac(wave_n, rate_hz), draw_png(model, wave_n, f"{id_}, best path"))


def flac(wave_n: Wave, sample_rate_hz: int) -> bytes:
    """Return the samples as a 16-bit FLAC file, which every browser plays. Shapes: (n,)."""
    content = io.BytesIO()
    soundfile.write(content, wave_n, sample_rate_hz, subtype="PCM_16", format="FLAC")
    return content.getvalue()
