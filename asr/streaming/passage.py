"""One passage of a stream: what the network says of it becomes results, until a pause ends it.

Axes: n samples, s steps, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np

from asr.data.audio import Wave
from asr.data.tokenizer import BLANK_ID
from asr.decode.choose import Decoder
from asr.decode.greedy import best_path, words_with_times
from asr.decode.types import Hypothesis, LogProbs
from asr.model.contract import AcousticModel
from asr.recordings.longform import longest_piece_s, pause_log_probs
from asr.recordings.speech import STRETCH_S, corrected, no_speech_prob
from asr.streaming.endpoints import EndPoints
from asr.streaming.results import Result, Rules
from asr.streaming.texts import begin_text, context_of

#: while nobody seems to speak, this is asked again at the first token after so many steps
_JUDGE_STEPS = 6


@dataclass(frozen=True)
class Setup:
    """Hold what all passages of all streams have in common."""

    model: AcousticModel
    decoder: Decoder
    no_speech_threshold: float

    @cached_property
    def samples_per_step(self) -> int:
        """Samples of the model's rate."""
        return self.model.extractor.hop * self.model.network.stride

    @cached_property
    def begins_anew(self) -> bool:
        """True if the network was not trained to go on after a pause, as it is on joined utterances."""
        return not self.model.training.get("joined")

    @cached_property
    def pause_v(self) -> LogProbs:
        """The step that stands for a pause."""
        return pause_log_probs(self.model.tokenizer)

    @cached_property
    def silent(self) -> frozenset[int]:
        """Tokens that say nothing."""
        return frozenset({BLANK_ID} | {1 + i for i, symbol in enumerate(self.model.tokenizer.symbols) if symbol == " "})


class After(Enum):
    """Say what is to be done after some steps."""

    NOTHING = 0
    #: the network begins anew, the passage goes on
    FRESH = 1
    #: the passage has ended
    END = 2


class Passage:
    """The audio between two pauses."""

    def __init__(self, setup: Setup, rules: Rules, start_n: int = 0, context: Sequence[int] = ()) -> None:
        """Begin a passage.

        Args:
            start_n: where it begins in the stream, in samples of the model's rate.
            context: the last tokens of the passage before, if it ended inside a sentence.
        """
        model = setup.model
        self._setup = setup
        self._start_n = start_n
        self._text = begin_text(setup.decoder, model.tokenizer, context)
        self._ends = EndPoints(rules, model.step_s, longest_piece_s(model))
        #: samples from ``held_from_n`` (in the passage) on: those of the pause and, while nobody seems to speak, some
        #: before it
        self._held_n = np.zeros(0, np.float32)
        self._held_from_n = 0
        #: steps of the pause that the decoder has not got
        self._pause_sv: LogProbs = np.zeros((0, model.tokenizer.vocabulary_size), np.float32)
        self._is_speech = setup.no_speech_threshold >= 1
        self._judge_from = 0
        #: sum of the tokens' log-probabilities, and their number
        self._sureness = 0.0
        self._num_tokens = 0
        self._shown = ""
        #: for the next passage, once this one has ended inside a sentence
        self.context: list[int] = []

    def hold(self, wave_n: Wave) -> None:
        """Keep samples that are going through the network."""
        self._held_n = np.concatenate([self._held_n, wave_n])

    def hear(self, log_probs_sv: LogProbs) -> After:
        """Take the next steps, up to one after which something else is to be done: those behind it do not count."""
        path_s, best_s = best_path(log_probs_sv)
        for i, (token, log_prob) in enumerate(zip(path_s.tolist(), best_s.tolist(), strict=True)):
            if token != BLANK_ID:
                self._sureness += log_prob
                self._num_tokens += 1
            is_end = self._ends.is_end(token not in self._setup.silent)
            if not self._is_speech and not self._ends.pause and self._ends.steps >= self._judge_from:
                self._judge()
            if is_end:
                self._tell(log_probs_sv[: i + 1])
                return After.END
            if self._setup.begins_anew and self._ends.is_stale():
                self._tell(log_probs_sv[: i + 1])
                # A network writes the space before a word only if it has heard the word before that.
                self._text.feed(np.repeat(self._setup.pause_v[None], len(self._pause_sv), axis=0))
                self._pause_sv = self._pause_sv[:0]
                return After.FRESH
        if len(log_probs_sv):
            self._tell(log_probs_sv)
            self._forget()
        return After.NOTHING

    def _tell(self, log_probs_sv: LogProbs) -> None:
        """Give the next steps to the decoder, but those of a pause only when it is over.

        What is behind the cut is heard again: a search that finds a word there would say it twice.
        """
        steps_sv = np.concatenate([self._pause_sv, log_probs_sv])
        said = max(0, len(steps_sv) - self._ends.pause)
        if said:
            self._text.feed(steps_sv[:said])
        self._pause_sv = steps_sv[said:]

    def _judge(self) -> None:
        """Decide whether anybody speaks, by the last seconds that were heard up to this step."""
        rate_hz = self._setup.model.audio.sample_rate_hz
        heard_n = self._held_n[: self._heard_n - self._held_from_n]
        no_speech = no_speech_prob(heard_n[-round(STRETCH_S * rate_hz) :], rate_hz)
        sureness = self._sureness / max(1, self._num_tokens)
        self._is_speech = corrected(no_speech, sureness) <= self._setup.no_speech_threshold
        self._judge_from = self._ends.steps + _JUDGE_STEPS

    def _forget(self) -> None:
        """Let go of samples that are needed no more."""
        keep_from_n = self._pause_from_n
        if not self._is_speech:
            judged_n = round(STRETCH_S * self._setup.model.audio.sample_rate_hz)
            keep_from_n = min(keep_from_n, self._heard_n - judged_n)
        keep_from_n = max(keep_from_n, self._held_from_n)
        self._held_n = self._held_n[keep_from_n - self._held_from_n :]
        self._held_from_n = keep_from_n

    @property
    def _heard_n(self) -> int:
        return self._ends.steps * self._setup.samples_per_step

    @property
    def _pause_from_n(self) -> int:
        return (self._ends.steps - self._ends.pause) * self._setup.samples_per_step

    def partial(self) -> Result | None:
        """Return the text so far, if it is another one than before."""
        found = self._text.partial() if self._is_speech else None
        if found is None or _tidy(found[0].text) == self._shown:
            return None
        hypothesis, stable = found
        self._shown = _tidy(hypothesis.text)
        return self._result(hypothesis, self._heard_n, stable, final=False)

    def _cut_n(self) -> int:
        """Return where in its pause the passage is cut."""
        per_step = self._setup.samples_per_step
        cut_n = self._ends.cut_step(self._held_n[self._pause_from_n - self._held_from_n :], per_step) * per_step
        return min(cut_n, self._held_from_n + len(self._held_n))  # the last step may reach beyond the audio

    def cut(self) -> tuple[Result, Wave, int]:
        """End the passage in its pause; return its result, the samples after it, and where those are in the stream."""
        cut_n = self._cut_n()
        behind = self._ends.steps - cut_n // self._setup.samples_per_step
        self._text.feed(self._pause_sv[: max(0, len(self._pause_sv) - behind)])
        return self._final(cut_n), self._held_n[cut_n - self._held_from_n :], self._start_n + cut_n

    def refresh(self) -> tuple[Wave, int]:
        """Go on with a network that begins anew in the pause.

        Returns:
            The samples that it hears first, and how many of its steps the passage has heard already.
        """
        cut_n = self._cut_n()
        rest_n = self._held_n[cut_n - self._held_from_n :]
        self._held_n = self._held_n[: cut_n - self._held_from_n]
        return rest_n, self._ends.steps - cut_n // self._setup.samples_per_step

    def finish(self, end_n: int) -> Result:
        """End the passage with the audio; return its result.

        Args:
            end_n: where that is in the stream.
        """
        self._text.feed(self._pause_sv)
        result = self._final(max(0, end_n - self._start_n))
        self.context = []
        return result

    def _final(self, end_n: int) -> Result:
        if not self._is_speech and self._ends.has_tokens:
            self._judge()
        hypothesis = self._text.final()
        if not self._is_speech:
            hypothesis = Hypothesis("", 0.0, ())
        if not self._ends.is_sentence_end:
            self.context = context_of(hypothesis, self._setup.model.tokenizer)
        return self._result(hypothesis, end_n, hypothesis.text, final=True)

    def _result(self, hypothesis: Hypothesis, end_n: int, stable: str, *, final: bool) -> Result:
        """Return a result that covers the passage's samples up to ``end_n``."""
        model = self._setup.model
        rate_hz = model.audio.sample_rate_hz
        start_s, end_s = self._start_n / rate_hz, (self._start_n + end_n) / rate_hz
        starts_s = start_s + model.step_s * np.arange(self._ends.steps, dtype=np.float64)
        # The last step may reach beyond the last sample by part of a step.
        clock = starts_s, np.minimum(starts_s + model.step_s, end_s)
        text, stable = _tidy(hypothesis.text), _tidy(stable)
        return Result(
            text=text,
            final=final,
            start_s=round(start_s, 3),
            end_s=round(end_s, 3),
            words=tuple(words_with_times(hypothesis, model.tokenizer, clock)),
            stable=len(stable) if text.startswith(stable) else 0,
            log_prob=hypothesis.score,
        )


def _tidy(text: str) -> str:
    return " ".join(text.split())
