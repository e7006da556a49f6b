"""Networks of the hub that have none of ours, through ``transformers`` where it is installed.

w2v-BERT 2.0, data2vec, SEW, UniSpeech, wav2vec 2.0 with a stack of convolutions behind it, and whatever else
``transformers`` knows as a network with a CTC head. Config and feature extractor are its own, and so is the network;
weights are read here, as tensors only. No code of a folder is run, and nothing is fetched.

Axes: b batch, n samples, s steps, v tokens, o outputs of the head.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr.errors import AsrError, CheckpointError
from asr.model.contract import Floats
from asr.model.hf.config import HfConfig
from asr.model.hf.network import in_our_order
from asr.model.hf.weights import read_file_tensors
from asr.model.model_files import read_json
from asr.model.padded import TorchNetwork

_INSTALL = "pip install 'asr-ctc[hf]' transformers"
#: the files whose numbers become sizes
_SIZED = ("config.json", "preprocessor_config.json", "processor_config.json")
#: the largest number in them, and the most layers; the largest that we know of are 1,280,000 (a vocabulary) and 48
_LARGEST, _MOST_LAYERS = 4_000_000, 512
#: values that a network may have beside its weights: positions, filters
_BESIDE = 64_000_000
#: what counts the steps of a network for lengths of its input, by its names in transformers
_COUNTERS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
#: the input's mask
_MASKS = ("attention_mask", "padding_mask")


@dataclass(frozen=True)
class Steps:
    """Count the output steps of a number of samples: convolutions over frames, whatever their padding.

    Rounded divisions one after the other are one rounded division of the sum with a constant.
    """

    #: samples per step
    stride: int
    shift: int
    #: fewer samples give no step
    least: int

    def __call__(self, num_samples_b: Tensor) -> Tensor:
        """Count the steps of waves. Shapes: (b,) -> (b,)."""
        steps_b = (num_samples_b + self.shift) // self.stride
        return torch.where(num_samples_b >= self.least, steps_b, 0)


@dataclass(frozen=True)
class OtherDescription:
    """Hold what is known of a network without its weights."""

    config: Any
    extractor: Any
    steps: Steps
    outputs: int
    num_parameters: int


def describe_other(folder: Path, config: HfConfig) -> OtherDescription:
    """Describe a network that ``transformers`` knows; its weights are not read.

    Raises:
        AsrError: ``transformers`` is not installed.
        CheckpointError: it does not know the network, or the config is damaged.
    """
    _check_entries(folder)
    transformers = _transformers(config, folder)
    with _quiet(transformers), _explained(folder, "its config and that of its input do not make a network"):
        own = transformers.AutoConfig.from_pretrained(folder, **_SAFE)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **_SAFE)
        known = {cls.__name__: cls for cls in transformers.MODEL_FOR_CTC_MAPPING.values()}
        if config.architecture not in known or known[config.architecture].config_class is not type(own):
            raise CheckpointError(
                f"{config.architecture} with model_type '{config.model_type}' is no network with CTC that transformers "
                f"{transformers.__version__} has",
                folder / "config.json",
            )
        with torch.device("meta"):
            model = known[config.architecture]._from_config(own, attn_implementation="eager")
        return OtherDescription(
            own,
            extractor,
            _find_steps(_Input(extractor, model), config.sample_rate_hz),
            own.vocab_size,
            sum(parameter.numel() for parameter in model.parameters()),
        )


def load_other(folder: Path, config: HfConfig, columns: Sequence[int], silent: Sequence[int] = ()) -> OtherNetwork:
    """Load a network that ``transformers`` knows, in float32 on the CPU.

    Args:
        columns: the head's output of each of our ids, the blank's first.
        silent: outputs that write nothing; their probability is added to the blank's.

    Raises:
        AsrError: ``transformers`` is not installed.
        CheckpointError: it does not know the network, a file is damaged or asks for code, or weights are missing.
    """
    known = describe_other(folder, config)
    tensors, path = read_file_tensors(folder, config, None)
    held = sum(tensor.numel() for tensor in tensors.values())
    if known.num_parameters > 2 * held + _BESIDE:
        asked = f"config.json asks for {known.num_parameters:,} parameters, and it holds {held:,}"
        raise CheckpointError(asked, path)

    transformers = _transformers(config, folder)
    architecture: Any = getattr(transformers, config.architecture)
    with _quiet(transformers), _explained(path, "its weights are not those that config.json asks for"):
        model, found = architecture.from_pretrained(
            None,
            config=known.config,
            # Copies, as what is read is mapped from a file that may change.
            state_dict={name: tensor.float().clone() for name, tensor in tensors.items()},
            attn_implementation="eager",
            output_loading_info=True,
        )
    missing = sorted(name for name in found["missing_keys"] if not name.endswith("masked_spec_embed"))
    if missing:  # transformers would draw them
        raise CheckpointError(f"holds no tensor '{missing[0]}', which config.json asks for", path)

    network = OtherNetwork(config, model.float(), known, columns, silent).eval()
    with _explained(folder, "its input does not fit its network"):
        network.each([_noise(config.sample_rate_hz)[:, None]])
    return network


class OtherNetwork(TorchNetwork):
    """A network of ``transformers`` under our contract: samples in, outputs in the order of our tokens, blank first.

    Its own feature extractor makes the input of each recording alone, and each goes through the network alone. Steps
    that the mask of the input counts as padding are left out: extractors may add frames to a recording.
    """

    columns: Tensor
    blanks: Tensor

    def __init__(
        self,
        cfg: HfConfig,
        model: nn.Module,
        known: OtherDescription,
        columns: Sequence[int],
        silent: Sequence[int],
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.model = model
        self.vocabulary_size = len(columns)
        self._steps = known.steps
        self._input = _Input(known.extractor, model)
        self.register_buffer("columns", torch.tensor(list(columns)), persistent=False)
        self.register_buffer("blanks", torch.tensor([columns[0], *silent]), persistent=False)

    @property
    def stride(self) -> int:
        """Samples per step."""
        return self._steps.stride

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Count the output steps of utterances. Shapes: (b,) -> (b,)."""
        return self._steps(num_frames_b)

    @torch.inference_mode()
    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of utterances. Shapes: b times (n, 1) -> b times (s, v)."""
        return [self._one(features_nf[:, 0]) for features_nf in features]

    def _one(self, wave_n: Floats) -> Floats:
        steps = int(self._steps(torch.tensor([len(wave_n)]))[0])
        if not steps:
            return np.zeros((0, self.vocabulary_size), np.float32)
        device = self.device
        inputs = {name: value.to(device) for name, value in self._input(wave_n).items()}
        logits_bso = self.model(**inputs).logits
        log_probs_bsv = in_our_order(logits_bso.float().log_softmax(-1), self.columns, self.blanks)
        out_sv: Floats = log_probs_bsv[0, :steps].cpu().numpy()
        return out_sv


class _Input:
    """Make what a network takes of one recording, by the feature extractor of its folder."""

    def __init__(self, extractor: Any, model: Any) -> None:
        self._extractor = extractor
        self._takes = frozenset(inspect.signature(model.forward).parameters)
        counter = next((getattr(model, name) for name in _COUNTERS if hasattr(model, name)), None)
        if counter is None:
            raise CheckpointError(f"{type(model).__name__} does not say how many steps it has")
        self._count: Callable[[Tensor], Tensor] = counter

    def __call__(self, wave_n: Floats) -> dict[str, Tensor]:
        made = self._extractor(
            np.ascontiguousarray(wave_n), sampling_rate=self._extractor.sampling_rate, return_tensors="pt"
        )
        return {name: value for name, value in made.items() if name in self._takes}

    def steps(self, wave_n: Floats) -> int:
        """Count the steps of a recording that are not padding; 0 if it is too short for the extractor."""
        try:
            inputs = self(wave_n)
        except (ValueError, RuntimeError, IndexError):  # as extractors refuse what is shorter than a window
            return 0
        mask = next((inputs[name] for name in _MASKS if name in inputs), None)
        first = next(value for name, value in inputs.items() if name not in _MASKS)
        if not first.isfinite().all():  # the deviation of a single frame
            return 0
        frames = torch.tensor([first.shape[1]]) if mask is None else mask.long().sum(-1).reshape(1)
        return max(int(self._count(frames)[0]), 0)


def _find_steps(made: _Input, rate_hz: int) -> Steps:
    """Find how many steps a network has for a number of samples, by asking for some lengths.

    Raises:
        CheckpointError: the answer is no rounded division.
    """
    start = rate_hz
    # A multiple of every stride that there is: shifts of the rounding then cancel out.
    apart = 5 << 13
    wave_n = _noise(start + apart)
    base = made.steps(wave_n[:start])
    more = made.steps(wave_n[: start + apart]) - base
    if more <= 0 or apart % more:
        raise CheckpointError(f"{apart} samples more give {more} steps more: no even pace")
    stride = apart // more

    # The first length that has one step more than the base.
    first = _least(lambda n: made.steps(wave_n[:n]) > base, start, start + stride)
    shift = (base + 1) * stride - first
    least = _least(lambda n: made.steps(wave_n[:n]) > 0, 0, start)
    return Steps(stride, shift, max(least, stride - shift))


def _least(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the least number above ``low`` for which something holds that holds at ``high`` and all above."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _noise(length: int) -> Floats:
    """Return some samples; zeros would have no deviation."""
    noise_n: Floats = np.random.default_rng(0).standard_normal(length, np.float32)
    return noise_n


#: nothing is fetched, and no code of a folder is run
_SAFE = {"local_files_only": True, "trust_remote_code": False}


def _transformers(config: HfConfig, folder: Path) -> Any:
    """Import ``transformers``, which only these networks need.

    Raises:
        AsrError: it is not installed.
    """
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise AsrError(
            f"{folder}: {config.why_other}: it needs transformers, which is not installed: {_INSTALL}"
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep ``transformers`` from writing to stderr; what matters of it is an error here."""
    logging = transformers.utils.logging
    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn whatever ``transformers`` raises for a damaged folder into one line."""
    try:
        yield
    except CheckpointError as error:
        raise error if error.path else CheckpointError(str(error), path) from error
    except Exception as error:  # it lets errors of every kind through
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(f"{what} ({reason})", path) from error


def _check_entries(folder: Path) -> None:
    """Refuse configs that ask for absurd sizes or, in their depth, for code, before anything is built from them.

    Raises:
        CheckpointError: a number is out of bounds, code is asked for, or the weights are quantised.
    """
    for name in _SIZED:
        path = folder / name
        if not path.is_file():
            continue
        for key, value in _entries(read_json(path)):
            most = _MOST_LAYERS if key.endswith("_layers") else _LARGEST
            if isinstance(value, int | float) and not abs(value) <= most:
                raise CheckpointError(f"{key} is {value:g}, at most {most:,}", path)
            if key == "auto_map" and value:
                raise CheckpointError("asks for Python code of its own ('auto_map'), which is never run", path)
            if key == "quantization_config" and value:
                raise CheckpointError("its weights are quantised; get the model in float32, float16 or bfloat16", path)


def _entries(document: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a document with its value, and the entries of lists under the key of the list."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            yield str(name), value
            yield from _entries(value, str(name))
    elif isinstance(document, list):
        for value in document:
            yield key, value
            yield from _entries(value, key)
