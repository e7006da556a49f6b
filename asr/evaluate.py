"""A model against a manifest: word and character error rates, and what they were measured with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asr.batch import extract, load_wave
from asr.checkpoint import AcousticModel
from asr.decode.choose import Decoder, greedy_decoder
from asr.errors import DataError
from asr.infer import batched, log_probs
from asr.manifest import Manifest
from asr.runtime import commit
from asr.text import normalize
from asr.watchdog import Health, Tally
from asr.wer import Score, score


@dataclass(frozen=True)
class Evaluation:
    """The score of a model on a manifest, and the conditions. ``failed``: id -> why it could not be transcribed."""

    score: Score
    audio_s: float
    seconds: float
    normalization: str
    decoder: str
    lm: str | None
    health: Health
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
            "blank_fraction": round(self.health.blank_fraction, 4),
            "emitted_ratio": round(self.health.emitted_ratio, 4),
            "audio_s": round(self.audio_s, 3),
            "rtf": round(self.rtf, 5),
            "decoder": self.decoder,
            "lm": self.lm,
            "normalization": self.normalization,
            "model": model,
            "commit": commit()["commit"],
        }


def evaluate(
    model: AcousticModel,
    manifest: Manifest,
    decoder: Decoder | None = None,
    progress: Callable[[float], None] = lambda audio_s: None,
) -> Evaluation:
    """The score of transcripts (default: greedy) against the manifest's texts, under the model's text normalisation.

    An utterance whose audio cannot be read is left out of the score and named in ``failed``.

    Raises:
        DataError: not one utterance could be transcribed.
    """
    began = time.perf_counter()
    rows, failed = manifest.utterances, {}
    texts: dict[str, str] = {}
    said_hz: set[int] = set()
    tally = Tally()
    decoder = decoder or greedy_decoder(model.tokenizer)
    # Audio and features are held for one batch at a time: memory does not grow with the manifest.
    for indexes in batched([u.duration_s for u in rows]):
        loaded = []
        for utterance in (rows[i] for i in indexes):
            try:
                wave_n = load_wave(manifest, utterance, model.audio.sample_rate_hz, model.audio.resample, said_hz)
            except DataError as error:
                failed[utterance.id] = str(error)
                continue
            loaded.append((utterance, extract(model.extractor, wave_n)))
        for (utterance, _), one_sv in zip(loaded, log_probs(model, [f for _, f in loaded]), strict=True):
            hypothesis = decoder.decode(one_sv)[0]
            texts[utterance.id] = " ".join(hypothesis.text.split())
            tally.add(one_sv, len(hypothesis.spans), len(normalize(utterance.text, model.text.normalization)))
        progress(sum(rows[i].duration_s for i in indexes))
    failed = {u.id: failed[u.id] for u in rows if u.id in failed}
    if not texts:
        raise DataError(f"no utterance could be read; the first: {next(iter(failed.values()))}", manifest.path)
    seconds = time.perf_counter() - began
    normalization = model.text.normalization
    done = [u for u in rows if u.id in texts]
    scored = score((u.id, normalize(u.text, normalization), texts[u.id]) for u in done)
    return Evaluation(
        scored,
        sum(u.duration_s for u in done),
        seconds,
        normalization,
        decoder.name,
        decoder.lm,
        tally.health(),
        failed,
    )


#: the columns of ``markdown_row``
MARKDOWN_HEADER = (
    "| WER % [95 %] | S / D / I | words | CER % | decoder | LM | parameters | seed | epoch | training | commit |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown_row(model: AcousticModel, result: Evaluation) -> str:
    """The result as a row of a RESULTS.md table, with what is known of the model's making."""
    wer, cer, made = result.score.wer, result.score.cer, model.training
    rates = ["undefined" if r is None else f"{100 * r:.2f}" for r in (wer.rate, wer.low, wer.high, cer.rate)]
    seconds = made.get("seconds")
    minutes = f"{seconds / 60:.1f} min" if isinstance(seconds, int | float) else "unknown"
    minutes += f", {made.get('hardware', 'unknown hardware')}"
    commit_ = f"{str(made.get('commit') or 'unknown')[:10]}{' (changed)' if made.get('dirty') else ''}"
    cells = (
        f"{rates[0]} [{rates[1]}, {rates[2]}]", f"{wer.substitutions} / {wer.deletions} / {wer.insertions}",
        wer.reference_length, rates[3], result.decoder, result.lm or "none",
        f"{model.num_parameters:,}", made.get("seed", "unknown"),
        made.get("epoch", "unknown"), minutes, commit_,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"
