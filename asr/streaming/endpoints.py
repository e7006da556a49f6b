"""Find where a passage ends, step by step: in a pause, so that no word is cut.

A pause is a run of steps in which the network writes nothing, at the end of what was heard so far. The passage is cut
inside it, where it is quietest; what comes after the cut is heard again as the beginning of the next passage.

Axes: s steps, n samples.
"""

from __future__ import annotations

import math

import numpy as np

from asr.data.audio import Wave
from asr.streaming.results import Rules

#: a passage that is as long as it may be ends in a pause of this length; the longer it is beyond that, the shorter the
#: pause may be: at half as long again, it is cut after any step without a token; at twice the length, after any step
_PAUSE_S = 0.3
_PATIENCE = 0.5
_MOST = 2.0
#: after a pause of this length the network begins anew, if it was not trained to go on after one
_FRESH_S = 0.7
#: of a silence in which nothing was said, so much is heard again, but less than half
_KEPT_S = 0.4


class EndPoints:
    """The rules, applied to one passage."""

    def __init__(self, rules: Rules, step_s: float, longest_s: float) -> None:
        """Begin a passage.

        Args:
            longest_s: what the network was trained on; ``rules.longest_s`` is not used beyond it.
        """
        self._rules = rules
        self._step_s = step_s
        self._longest_s = min(rules.longest_s, longest_s)
        self.steps = 0
        #: steps since the last token
        self.pause = 0
        self.has_tokens = False

    def is_end(self, is_token: bool) -> bool:
        """Take one step; return true if the passage ends after it."""
        self.steps += 1
        self.pause = 0 if is_token else self.pause + 1
        self.has_tokens = self.has_tokens or is_token
        pause_s = self.pause * self._step_s
        if not self.has_tokens:
            return pause_s >= min(self._rules.silence_s, self._longest_s)
        if pause_s >= self._rules.pause_s or self.steps * self._step_s >= _MOST * self._longest_s:
            return True
        return self.pause > 0 and pause_s >= self._least_pause_s()

    def is_stale(self) -> bool:
        """Return true, once in each pause, if a network that cannot go on after a pause should begin anew."""
        return self.has_tokens and self.pause == math.ceil(_FRESH_S / self._step_s)

    @property
    def is_sentence_end(self) -> bool:
        """Return true if the pause is long enough for the decoder to begin anew."""
        return not self.has_tokens or self.pause * self._step_s >= self._rules.pause_s

    def _least_pause_s(self) -> float:
        """Return the pause that ends the passage because of its length."""
        over = (self.steps * self._step_s - self._longest_s) / (_PATIENCE * self._longest_s)
        return _PAUSE_S * (1 - over) if over >= 0 else float("inf")

    def cut_step(self, wave_n: Wave, samples_per_step: int) -> int:
        """Return the step before which the passage is cut, one of those of the pause; without a pause, its end.

        Args:
            wave_n: the samples of the pause.
        """
        first = self.steps - self.pause
        if not self.pause:
            return self.steps
        if not self.has_tokens:
            return self.steps - min(round(_KEPT_S / self._step_s), (self.steps - 1) // 2)
        margin = self.pause // 4
        energy_s = _energies(wave_n, samples_per_step, self.pause)
        middle = (self.pause - 1) / 2
        candidates = range(margin, max(margin + 1, self.pause - margin))
        return first + min(candidates, key=lambda step: (energy_s[step], abs(step - middle)))


def _energies(wave_n: Wave, samples_per_step: int, steps: int) -> list[float]:
    """Return the energy of each step and of those beside it. Shapes: (n,) -> s values."""
    whole_n = np.zeros(steps * samples_per_step)
    whole_n[: min(len(wave_n), len(whole_n))] = wave_n[: len(whole_n)]
    own_s = np.square(whole_n).reshape(steps, samples_per_step).sum(axis=1)
    padded_s = np.pad(own_s, 1, mode="edge")
    energies: list[float] = (padded_s[:-2] + padded_s[1:-1] + padded_s[2:]).tolist()
    return energies
