"""A model against a manifest: word and character error rates, and what they were measured with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asr.batch import extract, load_wave
from asr.checkpoint import AcousticModel
from asr.decode.greedy import greedy
from asr.errors import DataError
from asr.infer import batched, log_probs
from asr.manifest import Manifest
from asr.runtime import commit
from asr.text import normalize
from asr.wer import Score, score


@dataclass(frozen=True)
class Evaluation:
    """The score of a model on a manifest, and the conditions. ``failed``: id -> why it could not be transcribed."""

    score: Score
    audio_s: float
    seconds: float
    normalization: str
    failed: dict[str, str]

    @property
    def rtf(self) -> float:
        """Seconds of computing for each second of audio."""
        return self.seconds / self.audio_s

    def to_json(self, model: str) -> dict[str, Any]:
        return {
            "wer": self.score.wer.to_json(),
            "cer": self.score.cer.to_json(),
            "utterances": self.score.utterances,
            "failed": self.failed,
            "audio_s": round(self.audio_s, 3),
            "rtf": round(self.rtf, 5),
            "decoder": "greedy",
            "lm": None,
            "normalization": self.normalization,
            "model": model,
            "commit": commit()["commit"],
        }


def evaluate(
    model: AcousticModel, manifest: Manifest, progress: Callable[[float], None] = lambda audio_s: None
) -> Evaluation:
    """The score of greedy transcripts against the manifest's texts, both under the model's text normalisation.

    An utterance whose audio cannot be read is left out of the score and named in ``failed``.

    Raises:
        DataError: not one utterance could be transcribed.
    """
    began = time.perf_counter()
    features, rows, failed = [], [], {}
    for utterance in manifest:
        try:
            wave_n = load_wave(manifest, utterance, model.audio.sample_rate_hz, model.audio.resample)
        except DataError as error:
            failed[utterance.id] = str(error)
            continue
        features.append(extract(model.extractor, wave_n))
        rows.append(utterance)
    if not rows:
        raise DataError(f"no utterance could be read; the first: {next(iter(failed.values()))}", manifest.path)
    texts = [""] * len(rows)
    for indexes in batched(features, model.extractor.cfg.hop_s):
        for i, one_sv in zip(indexes, log_probs(model, [features[i] for i in indexes]), strict=True):
            texts[i] = greedy(one_sv, model.tokenizer).text
        progress(sum(rows[i].duration_s for i in indexes))
    seconds = time.perf_counter() - began
    normalization = model.text.normalization
    scored = score(
        (u.id, normalize(u.text, normalization), " ".join(text.split())) for u, text in zip(rows, texts, strict=True)
    )
    return Evaluation(scored, sum(u.duration_s for u in rows), seconds, normalization, failed)
