"""A graph in onnxruntime.

Axes: b batch, l length, n samples, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.errors import AsrError, CheckpointError

Floats = npt.NDArray[np.float32]

#: values along the axis of a state that changes; samples of the longest window: 131,072
_LONGEST_STATE = 1 << 18
#: by which the probabilities of a step may miss 1: float16 weights change none
_SUM_TOLERANCE = 1e-3


class Session:
    """A graph that is ready to run, with log-probabilities and numbers of steps as its outputs."""

    def __init__(self, model: bytes | Path) -> None:
        """Load a graph. It computes in the thread that calls it; several may call it at a time.

        Raises:
            CheckpointError: onnxruntime cannot load it.
            AsrError: onnxruntime is not installed.
        """
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, too
        source = model if isinstance(model, bytes) else str(model)
        self._path = None if isinstance(model, bytes) else model
        try:
            self._session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen kinds, which share nothing else
            raise CheckpointError(f"onnxruntime cannot load it: {_first_line(error)}", self._path) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._inputs = [one.name for one in inputs]
        self._outputs = [one.name for one in outputs]
        #: an axis that may have any length is a word
        self._shapes: dict[str, list[Any]] = {one.name: list(one.shape) for one in [*inputs, *outputs]}
        #: the shapes with which the states of a streaming graph begin; none: it takes whole utterances
        self.states: dict[str, list[str | int]] = self._states()

    @property
    def metadata(self) -> dict[str, str]:
        """Return what is written beside the graph."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    @property
    def main_input(self) -> str:
        """Return what the graph takes: features or samples."""
        return "samples" if "samples" in self._inputs else "features"

    def sha256(self) -> str:
        """Return the SHA-256 of the graph's file; nothing, if it is in memory."""
        if self._path is None:
            return ""
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def checksum(self) -> str:
        """Return a name for the graph's file and for the version of onnxruntime."""
        return f"{self.sha256()} {_runtime().__version__}"

    def check(self, from_samples: bool, streaming: bool, bins: int, symbols: Sequence[str]) -> None:
        """Compare the graph with what is known of it: its input, its bins and its tokens.

        Raises:
            CheckpointError: it is another graph.
        """
        main, count = ("samples", "num_samples") if from_samples else ("features", "num_frames")
        inputs, outputs = [main, count], ["log_probs", "num_steps"]
        if streaming:
            inputs = [main, "is_last", *self.states]
            outputs = ["log_probs", *(f"new_{name}" for name in self.states)]
        fits = (
            set(inputs) == set(self._inputs)
            and set(outputs) == set(self._outputs)
            and self._shapes[main][2:] == ([] if from_samples else [bins])
            and self._shapes["log_probs"][2:] == [len(symbols) + 1]
        )
        if not fits:
            found = ", ".join(self._inputs)
            raise CheckpointError(
                f"is another graph than config.json and tokenizer.json say (its inputs are {found})", self._path
            )
        if self._json("tokens") != ["", *symbols]:
            raise CheckpointError("has other tokens than tokenizer.json beside it", self._path)

    def check_clock(self, sample_rate_hz: int, hop_s: float, stride: int) -> None:
        """Compare what the graph says of time with what its card says.

        Raises:
            CheckpointError: one of them is of another model.
        """
        for key, value in (("sample_rate_hz", sample_rate_hz), ("hop_s", hop_s), ("stride", stride)):
            if (own := self._json(key)) != value:
                raise CheckpointError(f"was written for {key} {own}, config.json beside it says {value}", self._path)

    def run(self, utterances: Sequence[Floats]) -> list[Floats]:
        """Compute log-probabilities of utterances as one padded batch. Shapes: b times (l, ...) -> b times (s, v).

        A streaming graph takes each as one piece.
        """
        if self.states:
            return [Stream(self).push(one, is_last=True) for one in utterances]
        stacked, lengths_b = padded(utterances)
        count = "num_samples" if self.main_input == "samples" else "num_frames"
        answers = self.answers({self.main_input: stacked, count: lengths_b})
        log_probs_bsv, num_steps_b = answers["log_probs"], answers["num_steps"]
        counted = num_steps_b.dtype == np.int64 and num_steps_b.shape == lengths_b.shape
        if not counted or num_steps_b.min() < 0 or num_steps_b.max() > log_probs_bsv.shape[1]:
            raise CheckpointError("gives wrong numbers of steps", self._path)
        all_sv = [log_probs_bsv[i, :steps] for i, steps in enumerate(num_steps_b)]
        for log_probs_sv in all_sv:
            self.check_rows(log_probs_sv)
        return all_sv

    def check_rows(self, log_probs_sv: Floats) -> None:
        """Check that the probabilities of each step sum to 1. What is no number at all is noticed where it is used.

        Raises:
            CheckpointError: a stranger's graph may answer anything.
        """
        with np.errstate(over="ignore"):
            if (np.abs(np.exp(log_probs_sv).sum(axis=1) - 1) > _SUM_TOLERANCE).any():
                raise CheckpointError("gives something else than log-probabilities", self._path)

    def answers(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs of the graph by name."""
        try:
            values = self._session.run(self._outputs, given)
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise CheckpointError(f"onnxruntime cannot run it: {_first_line(error)}", self._path) from error
        answers = dict(zip(self._outputs, values, strict=True))
        log_probs, batch = answers["log_probs"], len(given[self.main_input])
        shape = (batch, log_probs.shape[1], self._shapes["log_probs"][2]) if log_probs.ndim == 3 else ()
        if log_probs.dtype != np.float32 or log_probs.shape != shape:
            raise CheckpointError(f"gives log_probs of shape {list(log_probs.shape)} in {log_probs.dtype}", self._path)
        return answers

    def _json(self, key: str) -> Any:
        """Return an entry of the metadata; None, if it is missing or damaged."""
        try:
            return json.loads(self.metadata.get(key, "null"))
        except (ValueError, RecursionError):
            return None

    def _states(self) -> dict[str, list[str | int]]:
        """Return what the metadata says of states, if it fits the inputs."""
        found = self._json("states")
        if not isinstance(found, dict):
            return {}
        return {
            name: shape for name, shape in found.items() if name in self._shapes and _begins(shape, self._shapes[name])
        }


class Stream:
    """One stream through a streaming graph, a piece at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._states = {
            name: np.zeros([1 if isinstance(size, str) else size for size in shape], np.float32)
            for name, shape in session.states.items()
        }

    def push(self, piece: Floats, *, is_last: bool) -> Floats:
        """Return the log-probabilities that are known now. Shapes: (t, f) or (n,) -> (s, v)."""
        given = {self._session.main_input: piece[None], "is_last": np.array([is_last]), **self._states}
        answers = self._session.answers(given)
        self._states = {name: answers[f"new_{name}"] for name in self._states}
        log_probs_sv: Floats = answers["log_probs"][0]
        self._session.check_rows(log_probs_sv)
        return log_probs_sv


def padded(utterances: Sequence[Floats]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Stack utterances of several lengths; also return the lengths. Shapes: b times (l, ...) -> (b, l, ...), (b,).

    Padding is no number: a graph that looks at it gives none, and this is noticed.
    """
    lengths_b = np.array([len(one) for one in utterances], np.int64)
    stacked = np.full((len(utterances), int(lengths_b.max()), *utterances[0].shape[1:]), np.nan, np.float32)
    for row, one in zip(stacked, utterances, strict=True):
        row[: len(one)] = one
    return stacked, lengths_b


def _begins(shape: Any, declared: Sequence[Any]) -> bool:
    """Check that a state can begin with a shape: that of its input, with numbers for what changes."""
    return (
        isinstance(shape, list)
        and len(shape) == len(declared)
        and all(
            size == known or (isinstance(known, str) and type(size) is int and 0 <= size <= _LONGEST_STATE)
            for size, known in zip(shape, declared, strict=True)
        )
    )


def _runtime() -> ModuleType:
    # From version 1.29 on, the official builds report each use to their maker, unless this is set before they are
    # loaded. A user's own value stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise AsrError("running an exported model needs onnxruntime: pip install onnxruntime") from error
    module: ModuleType = onnxruntime
    return module


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
