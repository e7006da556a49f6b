"""Score a model on a manifest: word and character error rates, and the conditions they were measured under."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from asr.ahead import ahead_of_gpu
from asr.data.manifest import Manifest, Utterance
from asr.data.text import normalize
from asr.data.tokenizer import WORD_START
from asr.decode.choose import Decoder, greedy_decoder
from asr.decode.greedy import words_with_times
from asr.decode.types import Hypothesis, LogProbs, TimedWord
from asr.errors import DataError
from asr.infer import of_manifest
from asr.machine import commit
from asr.model.contract import AcousticModel
from asr.recordings.speech import NO_SPEECH_THRESHOLD
from asr.scoring.alphabet import under, unwritable_line
from asr.scoring.info import UtteranceInfo
from asr.scoring.oracle import oracle
from asr.scoring.reliability import Reliability, outcomes, reliability
from asr.scoring.tables import commonest_errors, tables
from asr.scoring.wer import Score, format_ends, percent, score
from asr.training.watchdog import Health, Tally
from asr.transcript import Alternative, alternative_of


@dataclass(frozen=True)
class Evaluation:
    """Hold the score of a model on a manifest, and its conditions.

    ``failed``: id -> why it could not be transcribed. ``words``: id -> the words with their times, if they were asked
    for. ``nbest``: id -> its best texts, best first, if they were asked for; ``oracle``: the score of the best choice
    among them. ``both_sides``: the normalisation was applied to the transcripts too. ``unwritable``: one line about
    characters of the references that the model never writes; empty if it writes them all.
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
    nbest: dict[str, list[Alternative]] = field(default_factory=dict)
    oracle: Score | None = None
    both_sides: bool = False
    unwritable: str = ""

    @property
    def rtf(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / self.audio_s

    def to_json(self, model: str, by: Sequence[str] = ()) -> dict[str, Any]:
        """Return the document of ``asr evaluate --json``, with a table for each field beside speaker and length."""
        return {
            **self.score.to_json(),
            **({"oracle": self._oracle_json(self.oracle)} if self.oracle else {}),
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
            "errors": commonest_errors(self.score),
            "by": {table.field: [group.to_json() for group in table.groups] for table in tables(self.score, by)},
        }

    def _oracle_json(self, found: Score) -> dict[str, Any]:
        """Return the oracle's word error rate and how many texts there were to choose from."""
        return {"wer": found.wer.to_json(), "texts_per_utterance": round(self.texts_per_utterance, 2)}

    @property
    def texts_per_utterance(self) -> float:
        """Mean number of the best texts that were kept; 0 if none were asked for."""
        return sum(map(len, self.nbest.values())) / max(1, len(self.nbest))

    def oracle_line(self) -> str:
        """Return a line for people about the oracle; empty if no best texts were asked for."""
        if self.oracle is None:
            return ""
        wer = self.oracle.wer
        rate = f"{percent(wer.rate)} {'%' if wer.rate is not None else ''} {format_ends((wer.low, wer.high))}"
        return f"oracle WER {' '.join(rate.split())}: the best of {self.texts_per_utterance:.1f} texts per utterance"

    def reliability(self) -> Reliability | None:
        """Return how often words of each confidence are right; ``None`` if words were not kept, or there are none."""
        rows: list[tuple[float, bool]] = []
        for one in self.score.per_utterance:
            parts: list[str] = []
            confidences: list[float] = []
            for word in self.words.get(one.id, []):
                if word.confidence is None:
                    break
                # Under a normalisation a word may become several, or none.
                scored = normalize(word.word, self.normalization) if self.both_sides else word.word
                parts += scored.split()
                confidences += [word.confidence] * len(scored.split())
            else:
                rows += outcomes(one.reference, " ".join(parts), confidences)

        return reliability(rows)

    def conditions(self) -> dict[str, str]:
        """Return what the score was measured with, for people: name and value."""
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
    alignment: str = "levenshtein",
    with_words: bool = False,
    with_nbest: bool = False,
    normalization: str | None = None,
    compounds: bool = False,
    no_speech_threshold: float = NO_SPEECH_THRESHOLD,
) -> Evaluation:
    """Score the model's transcripts (default: greedy) against the manifest's texts.

    An utterance whose audio cannot be read is left out of the score and named in ``failed``.

    Args:
        with_words: keep the words of the transcripts with their times.
        with_nbest: keep all texts that the decoder gives for each utterance, with their words and scores.
        normalization: the profile for references and transcripts; None: the model's own, for the references alone.
        compounds: as in ``asr.scoring.wer.score``.
        no_speech_threshold: an utterance with a higher probability of no speech has no text; 1: all have one.

    Raises:
        DataError: not one utterance could be transcribed.
        ConfigError: the normalisation is unknown.
    """
    began = time.perf_counter()
    decoder = decoder or greedy_decoder(model.tokenizer)
    found = _Transcription(model, normalization, with_words, with_nbest)
    heard = of_manifest(model, manifest, no_speech_threshold=no_speech_threshold)
    jobs = ((utterance.duration_s, partial(_decode, decoder, utterance, one_sv)) for utterance, one_sv in heard)
    for utterance, decoded in ahead_of_gpu(model.on_gpu, jobs):
        progress(utterance.duration_s)
        if isinstance(decoded, DataError):
            found.failed[utterance.id] = str(decoded)
        else:
            found.add(utterance, *decoded)
    seconds = time.perf_counter() - began

    # Utterances come by length: back to the manifest's order.
    done = [u for u in manifest if u.id in found.rows]
    failed = {u.id: found.failed[u.id] for u in manifest if u.id in found.failed}
    if not done:
        raise DataError(f"no utterance could be read; the first: {next(iter(failed.values()))}", manifest.path)

    rows = [found.rows[u.id] for u in done]
    info = {u.id: UtteranceInfo(u.speaker, u.duration_s, u.meta) for u in done}
    return Evaluation(
        score=score(rows, info, alignment, found.profile, compounds),
        audio_s=sum(u.duration_s for u in done),
        seconds=seconds,
        normalization=found.profile,
        decoder=decoder.name,
        lm=decoder.lm,
        health=found.tally.health(),
        failed=failed,
        words={u.id: found.words[u.id] for u in done} if with_words else {},
        nbest={u.id: found.nbest[u.id] for u in done} if with_nbest else {},
        oracle=found.oracle(done, info, alignment, compounds) if with_nbest else None,
        both_sides=found.both_sides,
        unwritable=found.unwritable(done),
    )


def _decode(
    decoder: Decoder, utterance: Utterance, log_probs_sv: LogProbs | DataError
) -> tuple[Utterance, tuple[LogProbs, list[Hypothesis]] | DataError]:
    if isinstance(log_probs_sv, DataError):
        return utterance, log_probs_sv
    return utterance, (log_probs_sv, decoder.decode(log_probs_sv))


class _Transcription:
    """Collect the texts of a manifest as they come."""

    def __init__(
        self, model: AcousticModel, normalization: str | None, with_words: bool, with_nbest: bool = False
    ) -> None:
        self._model = model
        self._with_words = with_words
        self._with_nbest = with_nbest
        self.both_sides = normalization is not None
        self.profile = model.text.normalization if normalization is None else normalization
        normalize("", self.profile)  # an unknown profile is refused before the work

        self.rows: dict[str, tuple[str, str, str]] = {}
        self.words: dict[str, list[TimedWord]] = {}
        self.nbest: dict[str, list[Alternative]] = {}
        self.failed: dict[str, str] = {}
        self.tally = Tally()

    def add(self, utterance: Utterance, log_probs_sv: LogProbs, hypotheses: Sequence[Hypothesis]) -> None:
        hypothesis = hypotheses[0]
        reference = normalize(utterance.text, self.profile)
        text = self._scored(hypothesis.text)
        self.rows[utterance.id] = (utterance.id, reference, text)

        if self._with_words:
            words = words_with_times(hypothesis, self._model.tokenizer, self._model.step_s)
            self.words[utterance.id] = _inside(words, utterance)
        if self._with_nbest:
            best = [alternative_of(one, self._model.tokenizer, self._model.step_s) for one in hypotheses]
            self.nbest[utterance.id] = [replace(one, words=tuple(_inside(one.words, utterance))) for one in best]

        # In characters, not tokens: a reference may have some that no token of a subword model writes.
        self.tally.add(log_probs_sv, len(text), len(reference))

    def oracle(
        self, utterances: Sequence[Utterance], info: dict[str, UtteranceInfo], alignment: str, compounds: bool
    ) -> Score:
        """Score the best choice among the texts of each utterance."""
        rows = [(u.id, self.rows[u.id][1], [self._scored(one.text) for one in self.nbest[u.id]]) for u in utterances]
        return oracle(rows, info, alignment, self.profile, compounds)

    def _scored(self, text: str) -> str:
        """Return a transcript as it is compared with the reference."""
        return normalize(text, self.profile) if self.both_sides else " ".join(text.split())

    def unwritable(self, utterances: Sequence[Utterance]) -> str:
        """Return one line about characters of the references that the model never writes."""
        written = {c for symbol in self._model.tokenizer.symbols for c in symbol.replace(WORD_START, " ")}
        if self.both_sides:
            written = under(written, self.profile)
        return unwritable_line((u.text for u in utterances), written, self.profile)


def _inside(words: Iterable[TimedWord], utterance: Utterance) -> list[TimedWord]:
    """Return words that end with the utterance: its last step may reach beyond the last sample by part of a step."""
    return [replace(word, end_s=min(word.end_s, utterance.duration_s)) for word in words]


#: the columns of ``markdown_row``
MARKDOWN_HEADER = (
    "| WER % [95 %] | interval over | S / D / I | words | CER % | decoder | LM | text | RTF | parameters | seed "
    "| epoch | training | commit |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown_row(model: AcousticModel, result: Evaluation) -> str:
    """Format the result as a row of a RESULTS.md table, with what is known of the model's training."""
    wer = result.score.wer
    made = model.training
    seconds = made.get("seconds")
    minutes = f"{seconds / 60:.1f} min" if isinstance(seconds, int | float) else "unknown"

    costs = "" if result.score.alignment == "levenshtein" else f" ({result.score.alignment})"
    cells = [
        f"{percent(wer.rate)} {format_ends((wer.low, wer.high))}",
        result.score.interval.drawn,
        f"{wer.substitutions} / {wer.deletions} / {wer.insertions}{costs}",
        wer.reference_length,
        percent(result.score.cer.rate),
        result.decoder,
        result.lm or "none",
        result.normalization,
        f"{result.rtf:.4f}",
        f"{model.num_parameters:,}",
        made.get("seed", "unknown"),
        made.get("epoch", "unknown"),
        made.get("source", f"{minutes}, {made.get('hardware', 'unknown hardware')}"),  # a bundle was trained elsewhere
        str(made.get("commit") or "unknown")[:10] + (" (changed)" if made.get("dirty") else ""),
    ]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
