"""The token ids of what is trained on as one utterance, and how many steps they need."""

from __future__ import annotations

from asr.config import RunConfig
from asr.data.manifest import Manifest
from asr.data.targets import min_steps, targets_of
from asr.data.text import normalize
from asr.data.tokenizer import Tokenizer
from asr.errors import ConfigError, DataError
from asr.training.plan import Row


class Labels:
    """The token ids of the rows of a training set.

    Raises:
        DataError: a transcript has a character that the tokenizer does not know.
        ConfigError: utterances are joined, and no text of the tokenizer's has what stands between them.
    """

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, cfg: RunConfig) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.normalization = cfg.text.normalization
        self.separator = cfg.augment.joined.separator
        try:
            #: of each utterance of the manifest
            self.alone = targets_of(manifest, tokenizer, self.normalization)
        except DataError as error:
            if cfg.text.tokenizer != "init":
                raise
            then = "text.tokenizer=init+ adds a token for it, text.tokenizer=char takes the letters of the texts alone"
            raise DataError(f"{error}; {then}") from error
        #: the fewest steps that write them
        self.needed_alone = self.alone.min_steps()
        if cfg.augment.joined.share:
            self._check_separator()

    def of(self, row: Row) -> list[int]:
        """Return the token ids of a row: of one text, not of several, as subwords may differ."""
        indices = [index for index, _ in row.parts]
        if len(indices) == 1:
            return list(self.alone[indices[0]])
        return self.tokenizer.encode(self.separator.join(map(self._text, indices)))

    def needed(self, row: Row) -> int:
        """Return the fewest steps that write a row's labels."""
        return int(self.needed_alone[row.parts[0][0]]) if len(row.parts) == 1 else min_steps(self.of(row))

    def most_needed(self, row: Row) -> int:
        """Return as many steps as a row's labels may need, without encoding them: for plans."""
        own = sum(int(self.needed_alone[index]) for index, _ in row.parts)
        # without a separator, a blank between two tokens that are the same
        return own + max(1, len(self.separator)) * (len(row.parts) - 1)

    def _text(self, index: int) -> str:
        return normalize(self.manifest.utterances[index].text, self.normalization)

    def _check_separator(self) -> None:
        try:
            self.tokenizer.encode(self.separator.join([self._text(0)] * 2))
        except DataError as error:
            raise ConfigError(
                f"augment.joined.separator {self.separator!r} stands between joined texts, and no text of the training "
                "set has it; set it to '' if the language writes no spaces, else augment.joined.share=0",
                key="augment.joined.separator",
            ) from error
