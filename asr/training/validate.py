"""Validation: the scores of the model on the dev set, by the forward pass used in inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from asr.ahead import ahead_of_gpu
from asr.ctc import ctc_loss
from asr.data.audio import Wave
from asr.data.manifest import Manifest, Utterance
from asr.data.targets import min_steps, targets_of
from asr.data.text import NORMALIZATIONS, normalize
from asr.decode.greedy import greedy
from asr.decode.types import LogProbs
from asr.errors import DataError
from asr.infer import all_log_probs
from asr.machine import pool_of
from asr.model.contract import AcousticModel
from asr.model.prepared import at_precision
from asr.scoring.wer import Score, score
from asr.training.watchdog import Health, Tally, cases_differ
from asr.utterance import Features, extract, load_wave


@dataclass(frozen=True)
class Validation:
    """The scores of a model on the dev set. The rates are numbers, as a dev set has words.

    ``loss_nats`` is the mean CTC loss of the utterances whose text fits into their steps; None if none fits.
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

    def __init__(
        self,
        manifest: Manifest,
        model: AcousticModel,
        train_texts: Sequence[str],
        precision: str = "fp32",
        extract_one: Callable[[Wave], Features] | None = None,
    ) -> None:
        """Check the texts.

        Args:
            precision: of the network on a GPU, which takes several times as long in fp32; on a CPU it is always fp32.
            extract_one: makes the features of an utterance; None: the model's extractor does.
        """
        self.manifest = manifest
        self.model = model
        self.precision = precision
        self.texts = [normalize(u.text, model.text.normalization) for u in manifest]
        _check_characters(manifest, self.texts, model, train_texts)
        self.targets = targets_of(manifest, model.tokenizer, model.text.normalization)
        if not any(self.targets):
            raise DataError("has no words to validate on: every text is empty", manifest.path)

        #: the text is in another letter case than what the model is trained on
        self.lost_case = cases_differ(train_texts, self.texts)
        self._features: list[Features] = []
        self._extract_one = extract_one or partial(extract, model.extractor)

    def validate(self) -> Validation:
        """Score the model as it is now."""
        if not self._features:
            self._features = self._load_features()
        all_sv = all_log_probs(at_precision(self.model, self.precision), self._features)

        tally = Tally()
        pairs = []
        for utterance, text, target, log_probs_sv in zip(self.manifest, self.texts, self.targets, all_sv, strict=True):
            hypothesis = greedy(log_probs_sv, self.model.tokenizer)
            pairs.append((utterance.id, text, " ".join(hypothesis.text.split())))
            tally.add(log_probs_sv, len(hypothesis.spans), len(target))

        result = score(pairs)
        assert result.wer.rate is not None and result.cer.rate is not None  # there are words
        return Validation(result, tally.health(), result.wer.rate, result.cer.rate, self._loss_nats(all_sv))

    def _load_features(self) -> list[Features]:
        audio, said_hz = self.model.audio, set[int]()

        def load(utterance: Utterance) -> Features:
            wave_n = load_wave(self.manifest, utterance, audio.sample_rate_hz, audio.resample, said_hz)
            return self._extract_one(wave_n)

        return list(ahead_of_gpu(self.model.on_gpu, ((u.duration_s, partial(load, u)) for u in self.manifest)))

    def _loss_nats(self, all_sv: Sequence[LogProbs]) -> float | None:
        fitting = [
            (log_probs_sv, target)
            for log_probs_sv, target in zip(all_sv, self.targets, strict=True)
            if max(1, min_steps(target)) <= len(log_probs_sv)
        ]
        # Some milliseconds each. They are computed on the CPU one by one, so that none is rounded by its neighbours.
        with pool_of(torch.get_num_threads(), "asr-validate") as pool:
            losses = list(pool.map(_loss_nats, *zip(*fitting, strict=True))) if fitting else []
        return sum(losses) / len(losses) if losses else None


def _loss_nats(log_probs_sv: LogProbs, target: Sequence[int]) -> float:
    return ctc_loss(
        torch.from_numpy(log_probs_sv)[None],
        torch.tensor([len(log_probs_sv)]),
        torch.tensor(target, dtype=torch.int64)[None],
        torch.tensor([len(target)]),
    ).item()


def _check_characters(
    manifest: Manifest, texts: Sequence[str], model: AcousticModel, train_texts: Sequence[str]
) -> None:
    """Raise a DataError that counts the dev rows that the model could never write, and says what can be done."""
    unknown_by_id = {u.id: model.tokenizer.unknown(text) for u, text in zip(manifest, texts, strict=True)}
    bad_ids = [id_ for id_, unknown in unknown_by_id.items() if unknown]
    if not bad_ids:
        return

    rows = Counter(c for unknown in unknown_by_id.values() for c in unknown)
    shown = ", ".join(f"{c!r} (U+{ord(c):04X}) in {n:,}" for c, n in rows.most_common(5))
    more = ", …" if len(rows) > 5 else ""

    def characters(some_texts: Sequence[str], profile: str) -> set[str]:
        return set("".join(normalize(text, profile) for text in some_texts))

    profiles = [name for name in NORMALIZATIONS if characters(texts, name) <= characters(train_texts, name)]
    remedy = "set a text.normalization that writes them otherwise"
    if profiles:
        remedy = f"set text.normalization={' or '.join(profiles)}, which writes them as training does"
    raise DataError(
        f"{len(bad_ids):,} of {len(manifest):,} texts have characters that the training texts lack, so that no model "
        f"of them writes these: {shown}{more}; the first: utt '{bad_ids[0]}'. Either {remedy}; or train on texts that "
        "have them; or take these rows out of this manifest",
        manifest.path,
    )
