"""A model against a manifest: word and character error rates, and what they were measured with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from asr.data.manifest import Manifest
from asr.data.text import normalize
from asr.data.tokenizer import WORD_START
from asr.decode.choose import Decoder, greedy_decoder
from asr.decode.greedy import words_with_times
from asr.decode.types import TimedWord
from asr.errors import DataError
from asr.infer import of_manifest
from asr.model.checkpoint import AcousticModel
from asr.recordings.speech import NO_SPEECH_THRESHOLD
from asr.runtime import commit
from asr.scoring.alphabet import under, unwritable_line
from asr.scoring.reliability import Reliability, outcomes, reliability
from asr.scoring.tables import commonest_errors, tables
from asr.scoring.transcripts import Facts
from asr.scoring.wer import Alignment, Score, format_ends, percent, score
from asr.training.watchdog import Health, Tally


@dataclass(frozen=True)
class Evaluation:
    """The score of a model on a manifest, and the conditions. ``failed``: id -> why it could not be transcribed.

    ``words``: id -> the words with their times, where they were asked for. ``both_sides``: what the model
    writes went through the normalisation too. ``unwritable``: one line about characters of the references that the
    model never writes; empty where it writes them all.
    """

    score: Score
    audio_s: float
    seconds: float
    normalization: str
    decoder: str
    lm: str | None
    health: Health
    failed: dict[str, str]
    words: dict[str, list[TimedWord]] = field(default_factory=dict)
    both_sides: bool = False
    unwritable: str = ""

    @property
    def rtf(self) -> float:
        """Seconds of computing for each second of audio."""
        return self.seconds / self.audio_s

    def to_json(self, model: str, by: Sequence[str] = ()) -> dict[str, Any]:
        """The document of ``asr evaluate --json``, with a table for each field beside speaker and length."""
        return {
            **self.score.to_json(),
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
            "errors": commonest_errors(self.score).to_json(),
            "by": {table.field: [group.to_json() for group in table.groups] for table in tables(self.score, by)},
        }

    def reliability(self) -> Reliability | None:
        """How often words of each confidence are right; ``None`` where words were not kept, or there are none."""
        rows: list[tuple[float, bool]] = []
        for one in self.score.per_utterance:
            timed = self.words.get(one.id, [])
            if timed and all(word.confidence is not None for word in timed):
                # under a profile a word may be several, or none
                said = [(part, w.confidence or 0.0) for w in timed for part in self._scored(w.word).split()]
                rows += outcomes(one.reference, " ".join(part for part, _ in said), [sure for _, sure in said])
        return reliability(rows)

    def _scored(self, word: str) -> str:
        return normalize(word, self.normalization) if self.both_sides else word

    def conditions(self) -> dict[str, str]:
        """What the score was measured with, for people: name and value."""
        return {
            "audio": f"{self.audio_s / 60:.1f} min in {self.seconds:.1f} s",
            "real-time factor": f"{self.rtf:.4f}",
            "decoder": self.decoder,
            "LM": self.lm or "none",
            "text normalization": self.normalization,
            "blank": f"{self.health.blank_fraction:.0%} of steps",
            "emitted/reference": f"{self.health.emitted_ratio:.2f}",
        }


def evaluate(
    model: AcousticModel,
    manifest: Manifest,
    decoder: Decoder | None = None,
    progress: Callable[[float], None] = lambda audio_s: None,
    *,
    alignment: Alignment = "levenshtein",
    with_words: bool = False,
    normalization: str | None = None,
    no_speech_threshold: float = NO_SPEECH_THRESHOLD,
) -> Evaluation:
    """The score of transcripts (default: greedy) against the manifest's texts, under the model's text normalisation.

    An utterance whose audio cannot be read is left out of the score and named in ``failed``.

    Args:
        with_words: keep the words of the transcripts with their times.
        normalization: the profile that references and transcripts go through; None: the model's own, which is done to
            the references alone.
        no_speech_threshold: an utterance in which nobody speaks with a higher probability has no text; 1: all have.

    Raises:
        DataError: not one utterance could be transcribed.
        ConfigError: the normalisation is unknown.
    """
    began = time.perf_counter()
    both_sides = normalization is not None
    profile = model.text.normalization if normalization is None else normalization
    normalize("", profile)  # an unknown one is refused before the work
    rows, failed = manifest.utterances, {}
    texts: dict[str, str] = {}
    words: dict[str, list[TimedWord]] = {}
    tally = Tally()
    decoder = decoder or greedy_decoder(model.tokenizer)
    for utterance, one_sv in of_manifest(model, manifest, no_speech_threshold=no_speech_threshold):
        progress(utterance.duration_s)
        if isinstance(one_sv, DataError):
            failed[utterance.id] = str(one_sv)
            continue
        hypothesis = decoder.decode(one_sv)[0]
        texts[utterance.id] = normalize(hypothesis.text, profile) if both_sides else " ".join(hypothesis.text.split())
        if with_words:
            timed = words_with_times(hypothesis, model.tokenizer, model.step_s)
            # The last step may reach beyond the last sample by part of a step.
            words[utterance.id] = [replace(w, end_s=min(w.end_s, utterance.duration_s)) for w in timed]
        # In characters, not tokens: a reference may have some that no token of a subword model writes.
        tally.add(one_sv, len(texts[utterance.id]), len(normalize(utterance.text, profile)))
    failed = {u.id: failed[u.id] for u in rows if u.id in failed}
    if not texts:
        raise DataError(f"no utterance could be read; the first: {next(iter(failed.values()))}", manifest.path)
    seconds = time.perf_counter() - began
    done = [u for u in rows if u.id in texts]
    written = {c for symbol in model.tokenizer.symbols for c in symbol.replace(WORD_START, " ")}
    scored = score(
        ((u.id, normalize(u.text, profile), texts[u.id]) for u in done),
        {u.id: Facts(u.speaker, u.duration_s, u.meta) for u in done},
        alignment,
        profile,
    )
    return Evaluation(
        scored,
        sum(u.duration_s for u in done),
        seconds,
        profile,
        decoder.name,
        decoder.lm,
        tally.health(),
        failed,
        {u.id: words[u.id] for u in done if u.id in words},
        both_sides,
        unwritable_line((u.text for u in done), under(written, profile) if both_sides else written, profile),
    )


#: the columns of ``markdown_row``
MARKDOWN_HEADER = (
    "| WER % [95 %] | interval over | S / D / I | words | CER % | decoder | LM | text | RTF | parameters | seed "
    "| epoch | training | commit |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown_row(model: AcousticModel, result: Evaluation) -> str:
    """The result as a row of a RESULTS.md table, with what is known of the model's making."""
    wer, cer, made = result.score.wer, result.score.cer, model.training
    seconds = made.get("seconds")
    minutes = f"{seconds / 60:.1f} min" if isinstance(seconds, int | float) else "unknown"
    minutes += f", {made.get('hardware', 'unknown hardware')}"
    training = made.get("source", minutes)  # a bundle was trained elsewhere
    commit_ = f"{str(made.get('commit') or 'unknown')[:10]}{' (changed)' if made.get('dirty') else ''}"
    how = "" if result.score.alignment == "levenshtein" else f" ({result.score.alignment})"
    cells = (
        f"{percent(wer.rate)} {format_ends((wer.low, wer.high))}", result.score.interval.drawn,
        f"{wer.substitutions} / {wer.deletions} / {wer.insertions}{how}",
        wer.reference_length, percent(cer.rate), result.decoder, result.lm or "none",
        result.normalization, f"{result.rtf:.4f}", f"{model.num_parameters:,}", made.get("seed", "unknown"),
        made.get("epoch", "unknown"), training, commit_,
    )  # fmt: skip
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
