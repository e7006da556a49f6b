"""The dev set during training: its score, by the forward path of use, and whether the output is healthy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from asr.batch import Features, extract, load_wave
from asr.ctc import ctc_loss
from asr.data.manifest import Manifest, Utterance
from asr.data.targets import min_steps, targets_of
from asr.data.text import NORMALIZATIONS, normalize
from asr.decode.greedy import greedy
from asr.decode.types import LogProbs
from asr.errors import DataError
from asr.infer import all_log_probs
from asr.model.checkpoint import AcousticModel
from asr.scoring.wer import Score, score
from asr.training.watchdog import Health, Tally, cases_differ


@dataclass(frozen=True)
class Validation:
    """What a model does on the dev set. The rates are numbers: a dev set has words.

    ``loss_nats``: mean CTC loss of the utterances whose text fits into their steps; None where none does.
    """

    score: Score
    health: Health
    wer: float
    cer: float
    loss_nats: float | None


class DevSet:
    """The dev utterances; their features are computed on first use and kept.

    Raises:
        DataError: transcripts have characters that the model cannot write, or none has any words.
    """

    def __init__(self, manifest: Manifest, model: AcousticModel, train_texts: Sequence[str]) -> None:
        self.manifest, self.model = manifest, model
        self.texts = [normalize(u.text, model.text.normalization) for u in manifest]
        _check_characters(manifest, self.texts, model, train_texts)
        self.targets = targets_of(manifest, model.tokenizer, model.text.normalization)
        if not any(self.targets):
            raise DataError("has no words to validate on: every text is empty", manifest.path)
        #: the text is in another letter case than what the model is trained on
        self.lost_case = cases_differ(train_texts, self.texts)
        self._features: list[Features] = []

    def validate(self) -> Validation:
        """The score of the model as it is now."""
        rate, resample = self.model.audio.sample_rate_hz, self.model.audio.resample
        if not self._features:
            said_hz: set[int] = set()
            waves = (load_wave(self.manifest, u, rate, resample, said_hz) for u in self.manifest)
            self._features = [extract(self.model.extractor, wave_n) for wave_n in waves]
        all_sv = all_log_probs(self.model, self._features)
        hypotheses = [greedy(one_sv, self.model.tokenizer) for one_sv in all_sv]
        result = score(
            (u.id, text, " ".join(h.text.split()))
            for u, text, h in zip(self.manifest, self.texts, hypotheses, strict=True)
        )
        assert result.wer.rate is not None and result.cer.rate is not None  # there are words
        tally = Tally()
        for one_sv, hypothesis, target in zip(all_sv, hypotheses, self.targets, strict=True):
            tally.add(one_sv, len(hypothesis.spans), len(target))
        return Validation(result, tally.health(), result.wer.rate, result.cer.rate, self._loss_nats(all_sv))

    def _loss_nats(self, all_sv: Sequence[LogProbs]) -> float | None:
        losses = [
            ctc_loss(
                torch.from_numpy(one_sv)[None],
                torch.tensor([len(one_sv)]),
                torch.tensor(target, dtype=torch.int64)[None],
                torch.tensor([len(target)]),
            ).item()
            for one_sv, target in zip(all_sv, self.targets, strict=True)
            if max(1, min_steps(target)) <= len(one_sv)
        ]
        return sum(losses) / len(losses) if losses else None


def _check_characters(
    manifest: Manifest, texts: Sequence[str], model: AcousticModel, train_texts: Sequence[str]
) -> None:
    """Raises a DataError with all dev rows that the model could never write, and what can be done about them."""
    rows: Counter[str] = Counter()
    first: Utterance | None = None
    count = 0
    for utterance, text in zip(manifest, texts, strict=True):
        unknown = model.tokenizer.unknown(text)
        rows.update(unknown)
        count += bool(unknown)
        first = first or (utterance if unknown else None)
    if first is None:
        return
    shown = ", ".join(f"{c!r} (U+{ord(c):04X}) in {n:,}" for c, n in rows.most_common(5))
    raise DataError(
        f"{count:,} of {len(manifest):,} texts have characters that the training texts lack, so that no model of them "
        f"writes these: {shown}{', …' if len(rows) > 5 else ''}; the first: utt '{first.id}'. "
        f"Either {_normalization(texts, train_texts)}; or train on texts that have them; or take these rows out of "
        "this manifest",
        manifest.path,
    )


def _normalization(texts: Sequence[str], train_texts: Sequence[str]) -> str:
    """What to set so that the dev texts have no character that the training texts lack."""

    def characters(of: Sequence[str], profile: str) -> set[str]:
        return set("".join(normalize(text, profile) for text in of))

    profiles = [name for name in NORMALIZATIONS if characters(texts, name) <= characters(train_texts, name)]
    if not profiles:
        return "set a text.normalization that writes them otherwise"
    return f"set text.normalization={' or '.join(profiles)}, which writes them as training does"
