"""Is a model that writes almost nothing early on its normal way, or broken? One line that says which.

A CTC model first learns that blank is likely everywhere, and for a while emits next to nothing: the plateau. It looks
the same as a model that will never learn; what tells them apart is how long it lasts and what the data are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr.data.tokenizer import BLANK_ID
from asr.decode.types import LogProbs

#: with fewer than this many emitted tokens a reference token, the output counts as blank
_NEARLY_NOTHING = 0.1
#: updates after which a plateau is no longer the usual one; AN4's runs leave it within 200, larger corpora take longer
_PLATEAU_STEPS = 2000


@dataclass(frozen=True)
class Health:
    """What a validation says about blanks.

    ``blank_fraction``: share of steps whose most probable token is blank; ``emitted_ratio``: tokens emitted for each
    reference token; ``steps_per_token``: output steps for each reference token.
    """

    blank_fraction: float
    emitted_ratio: float
    steps_per_token: float


@dataclass
class Tally:
    """What the measures are made of, utterance by utterance."""

    steps: int = 0
    blanks: int = 0
    emitted: int = 0
    reference: int = 0

    def add(self, log_probs_sv: LogProbs, num_emitted: int, num_reference: int) -> None:
        """Counts one utterance: its steps, the tokens it emitted, the tokens of its text."""
        self.steps += len(log_probs_sv)
        self.blanks += int((log_probs_sv.argmax(axis=1) == BLANK_ID).sum())
        self.emitted += num_emitted
        self.reference += num_reference

    def health(self) -> Health:
        tokens = max(1, self.reference)
        return Health(self.blanks / max(1, self.steps), self.emitted / tokens, self.steps / tokens)


def cases_differ(train_texts: Iterable[str], dev_texts: Iterable[str]) -> bool:
    """Whether most letters of the dev text occur in the training text mainly in the other case."""
    train, dev = Counter("".join(train_texts)), Counter("".join(dev_texts))
    letters = {c: n for c, n in dev.items() if c.swapcase() != c}
    lost = sum(n for c, n in letters.items() if train[c.swapcase()] > 10 * train[c])
    return 2 * lost > sum(letters.values())


def diagnosis(
    now: Health, *, step: int, total_steps: int, lr: float, losses_nats: Sequence[float], lost_case: bool = False
) -> str | None:
    """One line when the output is all but blank, else None.

    Args:
        losses_nats: mean training loss of each epoch so far.
        lost_case: what ``cases_differ`` says of the texts.
    """
    if now.emitted_ratio >= _NEARLY_NOTHING:
        return None
    seen = f"{now.blank_fraction:.0%} of steps are blank, {now.emitted_ratio:.2f} tokens emitted for each in the text"
    if lost_case:
        return f"{seen}: likely a mistake: dev and training text differ in case; set text.normalization"
    if now.steps_per_token < 1.2:
        return (
            f"{seen}: likely a mistake: only {now.steps_per_token:.1f} output steps a token; "
            "lower the time strides in model (conv, tdnn, mlp), or use subwords"
        )
    if len(losses_nats) >= 3 and losses_nats[-1] > 1.5 * min(losses_nats):
        return (
            f"{seen}: likely a mistake: the loss rose from {min(losses_nats):.1f} to {losses_nats[-1]:.1f} nats; "
            f"lower optim.lr (now {lr:.1e}) or lengthen optim.warmup_fraction"
        )
    if step < min(_PLATEAU_STEPS, max(200, total_steps // 3)):
        return f"{seen}: the usual early plateau (step {step:,}); it ends by itself"
    return (
        f"{seen}: still so after {step:,} steps, likely a mistake: check that the transcripts belong to the audio "
        f"('asr evaluate MODEL MANIFEST --hypotheses FILE'), then try another optim.lr (now {lr:.1e})"
    )
