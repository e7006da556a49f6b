"""Strong models for people who have no data: torchaudio's CTC bundles (wav2vec 2.0, HuBERT) behind our own contract.

``torchaudio:NAME`` is a model like any other: a network of frames to log-probabilities, where a frame is one sample.
The weights are downloaded once, into the cache of ``torch.hub``. What is tuned for a bundle is kept in a folder of the
person's own cache.

Axes: b batch, n samples (the frames here), s steps, v vocabulary.

Source: Baevski et al. 2020, "wav2vec 2.0"; Hsu et al. 2021, "HuBERT"; Wang et al. 2021, "VoxPopuli".
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from asr.config import AudioConfig, Stage, TextConfig
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, CheckpointError, ConfigError, nearest
from asr.files import cache_folder
from asr.runtime import package_version

if TYPE_CHECKING:  # torchaudio takes a second to load: only where a bundle is meant
    from torchaudio.pipelines import Wav2Vec2ASRBundle

PREFIX = "torchaudio:"
#: where torchaudio's own loader looks for a bundle's file
_HOST = "https://download.pytorch.org/torchaudio/models/"
#: torchaudio's label for the space between two words
_SPACE = "|"
_INSTALL = "pip install 'asr-ctc[bundles]'"
#: The two pairs that are tested. Forced, since builds for a CPU and for CUDA do not fit each other either.
_INSTALL_PAIR = "pip install --force-reinstall torch==2.14.1 torchaudio==2.11.1 (or torch==2.11.0 torchaudio==2.11.0)"


@dataclass(frozen=True)
class Facts:
    """What torchaudio's documentation and the papers say of a bundle. ``hours`` are those with transcripts."""

    language: str
    corpus: str
    hours: float
    pretrained_on: str
    licence: str
    #: what brings a reference to the letters that the model writes
    normalization: str
    #: the longest utterances of its fine-tuning, about; longer audio is cut
    longest_s: float


def is_bundle(model: str | Path) -> bool:
    """Whether a MODEL names a bundle, known or not."""
    return str(model).startswith(PREFIX)


def names() -> list[str]:
    """List the bundles of the installed torchaudio that write text, by name.

    Raises:
        AsrError: torchaudio is not installed, or does not load.
    """
    pipelines = load_torchaudio().pipelines
    return sorted(name for name, bundle in vars(pipelines).items() if _writes_text(bundle))


def load_torchaudio() -> ModuleType:
    """Import torchaudio, which only bundles need.

    Raises:
        AsrError: it is not installed, or does not load with the installed torch; with the command that mends it.
    """
    try:
        import torchaudio.pipelines
    except ModuleNotFoundError as error:
        if error.name != "torchaudio":
            raise
        raise AsrError(f"{PREFIX}NAME needs torchaudio, which is not installed: {_INSTALL}") from error
    # A library that does not fit raises OSError; a build for another version of CUDA RuntimeError.
    except (ImportError, OSError, RuntimeError) as error:
        pair = f"torchaudio {package_version('torchaudio')} does not load with torch {torch.__version__}"
        raise AsrError(f"{pair} ({_root_cause(error)}); install a pair that does: {_INSTALL_PAIR}") from error
    module: ModuleType = torchaudio
    return module


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def settings_folder(model: str | Path) -> Path:
    """Where ``decoder.json`` of a bundle is kept; it need not be there yet.

    Raises:
        ConfigError: no such bundle.
        AsrError: this person has no home folder.
    """
    name, _ = _find(model)
    try:
        return cache_folder() / "torchaudio" / name
    except RuntimeError as error:
        raise AsrError("there is no home folder to keep a tuned decoder in; set XDG_CACHE_HOME") from error


class Weights(NamedTuple):
    """Where a bundle's weights come from, and where they are once they are here."""

    url: str
    path: Path


def weights_of(model: str | Path) -> Weights:
    """Raises: ConfigError: no such bundle."""
    _, bundle = _find(model)
    url = bundle._path if bundle._path.startswith("https") else _HOST + bundle._path
    return Weights(url, Path(torch.hub.get_dir()) / "checkpoints" / urlsplit(url).path.rpartition("/")[2])


def facts_of(model: str | Path) -> Facts:
    """Raises: ConfigError: no such bundle."""
    name, bundle = _find(model)
    if name in _FACTS:
        return _FACTS[name]
    upper = all(not label.islower() for label in bundle._labels)
    normalization = "librispeech" if upper else "lower-nopunct"
    return Facts("unknown", "unknown", 0.0, "unknown", "unknown: see torchaudio's documentation", normalization, 20.0)


def stride_of(model: str | Path) -> int:
    """Samples a step. Raises: ConfigError: no such bundle."""
    _, bundle = _find(model)
    return math.prod(stride for _, _, stride in bundle._params["extractor_conv_layer_config"])


class WaveConfig(Stage):
    """What a ``WaveExtractor`` computes."""

    #: each utterance to mean 0, variance 1
    normalize: bool = False


class WaveExtractor(nn.Module):
    """The samples themselves as features, one a frame."""

    hop = 1
    num_bins = 1

    def __init__(self, cfg: WaveConfig) -> None:
        super().__init__()
        self.cfg = cfg

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        return num_samples_b

    def forward(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Shapes: (b, n), (b,) -> (b, n, 1), (b,)."""
        frames_bn = torch.zeros_like(waves_bn)
        for i, count in enumerate(num_samples_b.tolist()):
            wave_n = waves_bn[i, :count]
            # as torchaudio does it, but never over the padding of a batch
            frames_bn[i, :count] = (
                nn.functional.layer_norm(wave_n, wave_n.shape) if self.cfg.normalize and count else wave_n
            )
        return frames_bn[:, :, None], num_samples_b


class BundleConfig(Stage):
    """What a ``BundleNetwork`` computes, apart from its weights."""

    bundle: str


class BundleNetwork(nn.Module):
    """A bundle's network under the contract of ours: each utterance gets exactly what it gets alone.

    Padding would change the answers: the first normalisation of the BASE networks is over all samples, padding included
    (and the attention masks of the others round otherwise). So only utterances of one length go together.
    """

    def __init__(self, cfg: BundleConfig, model: nn.Module, labels: Sequence[str]) -> None:
        super().__init__()
        self.cfg, self.model, self.vocabulary_size = cfg, model, len(labels)
        self._layers = [(layer.kernel_size, layer.stride) for layer in model.feature_extractor.conv_layers]  # type: ignore[union-attr]

    @property
    def stride(self) -> int:
        return math.prod(stride for _, stride in self._layers)

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        return steps_after(self._layers, num_frames_b)

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: (b, n, 1), (b,) int64 -> (b, s, v) float32, (b,) int64."""
        waves_bn, num_steps_b = features_btf[:, :, 0], self.num_steps(num_frames_b)
        most = int(num_steps_b.max()) if len(num_steps_b) else 0
        log_probs_bsv = waves_bn.new_zeros(len(waves_bn), most, self.vocabulary_size, dtype=torch.float32)
        for length in sorted(set(num_frames_b.tolist())):
            rows = (num_frames_b == length).nonzero()[:, 0]
            steps = int(num_steps_b[rows[0]])
            if steps:
                logits_bsv, _ = self.model(waves_bn[rows, :length])
                log_probs_bsv[rows, :steps] = logits_bsv.float().log_softmax(-1)
        return log_probs_bsv, num_steps_b


def steps_after(layers: Sequence[tuple[int, int]], num_frames_b: Tensor) -> Tensor:
    """Outputs of unpadded convolutions, given as (kernel, stride); too short is none. Shapes: (b,) -> (b,)."""
    for kernel, stride in layers:
        num_frames_b = torch.where(num_frames_b >= kernel, (num_frames_b - kernel) // stride + 1, 0)
    return num_frames_b


class Described(NamedTuple):
    """All that is known of a bundle without its weights."""

    extractor: WaveExtractor
    tokenizer: CharTokenizer
    audio: AudioConfig
    text: TextConfig
    training: dict[str, Any]
    num_steps: Callable[[Tensor], Tensor]


def describe(model: str | Path) -> Described:
    """A bundle without its weights.

    Raises:
        ConfigError: no such bundle.
    """
    torchaudio = load_torchaudio()
    name, bundle = _find(model)
    facts, weights = facts_of(model), weights_of(model)
    training: dict[str, Any] = {
        "source": f"torchaudio {torchaudio.__version__}, torchaudio.pipelines.{name}",
        "url": weights.url,
        "licence": facts.licence,
        "language": facts.language,
        "corpus": facts.corpus,
        "train_hours": facts.hours,
        "pretrained_on": facts.pretrained_on,
        "longest_s": facts.longest_s,
    }
    layers = [(kernel, stride) for _, kernel, stride in bundle._params["extractor_conv_layer_config"]]
    return Described(
        WaveExtractor(WaveConfig(normalize=bundle._normalize_waveform)),
        # Their blank is first, as ours: the ids are the same.
        CharTokenizer(tuple(" " if label == _SPACE else label for label in bundle._labels)),
        AudioConfig(sample_rate_hz=round(bundle.sample_rate)),
        TextConfig(normalization=facts.normalization, tokenizer="char"),
        training,
        lambda num_frames_b: steps_after(layers, num_frames_b),
    )


def load_network(model: str | Path) -> BundleNetwork:
    """The network of a bundle with its weights, on the CPU, in evaluation mode; they are downloaded where they are not.

    Raises:
        ConfigError: no such bundle.
        CheckpointError: the weights cannot be downloaded, or the file is not them.
    """
    name, bundle = _find(model)
    url, path = weights_of(model)
    if not path.is_file():
        from asr.download.fetch import fetch
        from asr.download.remote import Remote

        remedy = f"or fetch that file elsewhere and put it at {path}"
        try:
            # Not torch.hub's own download: it takes a file that was cut for whole, and writes to stdout.
            fetch(Remote(url), path.parent, remedy=remedy)
        except AsrError as error:
            raise CheckpointError(f"{PREFIX}{name}: its weights are not here: {error}") from error
    settings = {"model_dir": str(path.parent), "map_location": "cpu", "weights_only": True}
    try:
        with torch.random.fork_rng(devices=[]):  # torchaudio draws weights first; they are replaced
            network = bundle.get_model(dl_kwargs=settings)
    except (
        OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, RuntimeError) and "alloc" in reason:
            raise AsrError(f"{PREFIX}{name}: not enough memory for its weights ({reason})") from error
        raise CheckpointError(
            f"not the weights of {PREFIX}{name}, or not all of them ({reason}); delete it and run again, "
            f"or put {url} there",
            path,
        ) from error
    # With normalised input it comes in a wrapper that normalises a batch as a whole; ours does an utterance.
    inner = network.model if bundle._normalize_waveform else network
    return BundleNetwork(BundleConfig(bundle=name), inner, bundle.get_labels()).eval()


def parts(model: str | Path) -> list[tuple[str, str, int]]:
    """(part, shape, parameters) of a bundle's network in order, for people; no weights are needed.

    Raises:
        ConfigError: no such bundle.
    """
    _, bundle = _find(model)
    from torchaudio.models import wav2vec2_model

    params = bundle._params
    with torch.device("meta"):
        network = wav2vec2_model(**params)
    rows = []
    convs = network.feature_extractor.conv_layers
    for i, (layer, (channels, kernel, stride)) in enumerate(
        zip(convs, params["extractor_conv_layer_config"], strict=True), start=1
    ):
        rows.append((f"conv {i}", f"{channels} channels, kernel {kernel}, stride {stride}", _count(layer)))
    encoder, width = network.encoder, params["encoder_embed_dim"]
    rows.append(("projection", f"{width} units", _count(encoder.feature_projection)))
    position = f"convolution of {params['encoder_pos_conv_kernel']} steps"
    transformer = encoder.transformer
    rows.append(("position", position, _count(transformer.pos_conv_embed) + _count(transformer.layer_norm)))
    shape = f"{width} units, {params['encoder_num_heads']} heads, {params['encoder_ff_interm_features']} inside"
    rows += [(f"transformer {i}", shape, _count(layer)) for i, layer in enumerate(transformer.layers, start=1)]
    rows.append(("output", f"{params['aux_num_out']} tokens, blank first", _count(network.aux)))
    return rows


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _find(model: str | Path) -> tuple[str, Wav2Vec2ASRBundle]:
    """Name and bundle of ``torchaudio:NAME``.

    Raises:
        ConfigError: there is none.
        AsrError: as ``load_torchaudio``.
    """
    torchaudio = load_torchaudio()
    from torchaudio.pipelines import Wav2Vec2ASRBundle

    name = str(model).removeprefix(PREFIX)
    bundle = getattr(torchaudio.pipelines, name, None)
    if _writes_text(bundle):
        return name, bundle
    known = names()
    if bundle is None or not name.isupper():
        what = "no such bundle"
    elif isinstance(bundle, Wav2Vec2ASRBundle):
        what = "is for alignment: it has no space between words"
    else:
        what = "writes no text: it is not fine-tuned for recognition with CTC"
    hint = nearest(name.upper(), known)
    raise ConfigError(f"{PREFIX}{name}: {what}{hint} (torchaudio {torchaudio.__version__} has {', '.join(known)})")


def _writes_text(bundle: object) -> bool:
    from torchaudio.pipelines import Wav2Vec2ASRBundle

    # MMS_FA is one of these, but has no space.
    return isinstance(bundle, Wav2Vec2ASRBundle) and _SPACE in bundle._labels


def _fine_tuned(corpus: str, hours: float, pretrained_on: str) -> Facts:
    """English on LibriSpeech, under MIT as wav2vec 2.0 and HuBERT are; its training utterances end at 24 s or so."""
    return Facts("English", corpus, hours, pretrained_on, "MIT", "librispeech", 24.0)


def _voxpopuli(language: str, hours: float) -> Facts:
    """On the European Parliament's recordings, whose segments end at 20 s (Wang et al. 2021, section 3)."""
    pretrained_on = "VoxPopuli, 10,000 hours of 23 languages"
    return Facts(language, "VoxPopuli", hours, pretrained_on, "CC BY-NC 4.0", "lower-nopunct", 20.0)


_960H = "LibriSpeech, 960 hours"
_60KH = "Libri-Light, 60,000 hours"
_FACTS = {
    f"WAV2VEC2_ASR_{size}_{part}": _fine_tuned(corpus, hours, pretrained_on)
    for size, pretrained_on in (("BASE", _960H), ("LARGE", _960H), ("LARGE_LV60K", _60KH))
    for part, corpus, hours in (
        ("10M", "Libri-Light train-10min", 0.167),
        ("100H", "LibriSpeech train-clean-100", 100.0),
        ("960H", "LibriSpeech", 960.0),
    )
}
_FACTS |= {f"HUBERT_ASR_{size}": _fine_tuned("LibriSpeech", 960.0, _60KH) for size in ("LARGE", "XLARGE")}
_FACTS |= {
    f"VOXPOPULI_ASR_BASE_10K_{code}": _voxpopuli(language, hours)
    for code, language, hours in (
        ("DE", "German", 282.0), ("EN", "English", 543.0), ("ES", "Spanish", 166.0), ("FR", "French", 211.0),
        ("IT", "Italian", 91.0),
    )
}  # fmt: skip
