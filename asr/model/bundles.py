"""Strong models for people who have no data: torchaudio's CTC bundles (wav2vec 2.0, HuBERT) behind our own contract.

``torchaudio:NAME`` is a model like any other: a network of frames to log-probabilities, where a frame is one sample.
The weights are downloaded once, into the cache of ``torch.hub``. What is tuned for a bundle is kept in a folder of the
person's own cache.

Axes: b batch, n samples (the frames here), s steps, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from asr.config import AudioConfig, Stage, TextConfig
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, CheckpointError, ConfigError, nearest
from asr.files import cache_folder
from asr.model.bundle_facts import BUNDLE_FACTS, PREFIX, BundleFacts
from asr.model.contract import AcousticModel
from asr.model.steps import unpadded_steps
from asr.model.trainable import ModelStages, TrainableModel
from asr.model.waves import WaveConfig, WaveExtractor, WaveNetwork, load_torchaudio, parts_of

if TYPE_CHECKING:  # torchaudio takes a second to load: only for a bundle
    from torchaudio.pipelines import Wav2Vec2ASRBundle

#: where torchaudio's own loader looks for a bundle's file
_HOST = "https://download.pytorch.org/torchaudio/models/"
#: torchaudio's label for the space between two words
_SPACE = "|"


def is_bundle(model: str | Path) -> bool:
    """Check whether a MODEL names a bundle, known or not."""
    return str(model).startswith(PREFIX)


def names() -> list[str]:
    """List the bundles of the installed torchaudio that write text, by name.

    Raises:
        AsrError: torchaudio is not installed, or does not load.
    """
    pipelines = load_torchaudio().pipelines
    return sorted(name for name, bundle in vars(pipelines).items() if _writes_text(bundle))


def settings_folder(model: str | Path) -> Path:
    """Return the folder of a bundle's ``decoder.json``; it need not exist.

    Raises:
        ConfigError: no such bundle.
        AsrError: this person has no home folder.
    """
    name, _ = _find(model)
    try:
        return cache_folder() / "torchaudio" / name
    except RuntimeError as error:
        raise AsrError("there is no home folder to keep a tuned decoder in; set XDG_CACHE_HOME") from error


class BundleConfig(Stage):
    """Settings of a ``BundleNetwork``, apart from its weights."""

    bundle: str


class BundleNetwork(WaveNetwork):
    """A bundle's network under our contract."""

    def __init__(self, cfg: BundleConfig, model: nn.Module, labels: Sequence[str]) -> None:
        super().__init__()
        self.cfg = cfg
        self.model = model
        self.vocabulary_size = len(labels)
        convs: Any = model.feature_extractor
        self.layers = [(layer.kernel_size, layer.stride) for layer in convs.conv_layers]

    def outputs(self, waves_bn: Tensor) -> Tensor:
        """Compute the log-probabilities of waves of one length. Shapes: (b, n) -> (b, s, v)."""
        logits_bsv, _ = self.model(waves_bn)
        log_probs_bsv: Tensor = logits_bsv.float().log_softmax(-1)
        return log_probs_bsv


@dataclass(frozen=True)
class BundleDescription:
    """All that is known of a bundle without its weights."""

    name: str
    #: where the weights come from, and where they are once they are downloaded
    url: str
    weights: Path
    extractor: WaveExtractor
    tokenizer: CharTokenizer
    audio: AudioConfig
    text: TextConfig
    #: its making, as ``config.json`` of a model folder has it
    training: dict[str, Any]
    #: samples per step
    stride: int
    num_steps: Callable[[Tensor], Tensor]


def describe(model: str | Path) -> BundleDescription:
    """Describe a bundle; its weights are not needed.

    Raises:
        ConfigError: no such bundle.
    """
    name, bundle = _find(model)
    facts = _facts(name, bundle)
    url = bundle._path if bundle._path.startswith("https") else _HOST + bundle._path
    layers = [(kernel, stride) for _, kernel, stride in bundle._params["extractor_conv_layer_config"]]
    rate_hz = round(bundle.sample_rate)
    return BundleDescription(
        name=name,
        url=url,
        weights=Path(torch.hub.get_dir()) / "checkpoints" / urlsplit(url).path.rpartition("/")[2],
        extractor=WaveExtractor(WaveConfig(normalize=bundle._normalize_waveform), rate_hz),
        # Their blank is first, as ours: the ids are the same.
        tokenizer=CharTokenizer(tuple(" " if label == _SPACE else label for label in bundle._labels)),
        audio=AudioConfig(sample_rate_hz=rate_hz),
        text=TextConfig(normalization=facts.normalization, tokenizer="char"),
        training={
            "source": f"torchaudio {load_torchaudio().__version__}, torchaudio.pipelines.{name}",
            "url": url,
            "licence": facts.licence,
            "language": facts.language,
            "corpus": facts.corpus,
            "train_hours": facts.hours,
            "pretrained_on": facts.pretrained_on,
            "longest_s": facts.longest_s,
        },
        stride=math.prod(stride for _, stride in layers),
        num_steps=partial(unpadded_steps, layers),
    )


def _facts(name: str, bundle: Wav2Vec2ASRBundle) -> BundleFacts:
    """Look up a bundle, or guess its letters if a newer torchaudio has it."""
    if name in BUNDLE_FACTS:
        return BUNDLE_FACTS[name]
    upper = all(not label.islower() for label in bundle._labels)
    return BundleFacts(
        language="unknown",
        corpus="unknown",
        hours=0.0,
        pretrained_on="unknown",
        licence="unknown: see torchaudio's documentation",
        normalization="librispeech" if upper else "lower-nopunct",
        longest_s=20.0,
    )


def load(model: str | Path, device: torch.device | str = "cpu") -> AcousticModel:
    """Load a bundle in evaluation mode; download its weights if they are not here.

    Raises:
        ConfigError: no such bundle.
        CheckpointError: the weights cannot be downloaded, or the file is not them.
    """
    known = describe(model)
    network = load_network(model).to(device)
    return AcousticModel(network, known.extractor, known.tokenizer, known.audio, known.text, known.training)


def start_stages(model: str | Path) -> ModelStages:
    """Refuse to train.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"train.init: {model}: a bundle of torchaudio can be used, but not trained; the Hugging Face hub has the same "
        "networks (hf:facebook/wav2vec2-base and the like)",
        key="train.init",
    )


def load_to_train(model: str | Path) -> TrainableModel:
    """Refuse to train.

    Raises:
        ConfigError: always.
    """
    start_stages(model)
    raise AssertionError("it is refused")


def shipped_settings(model: str | Path) -> None:
    """Return nothing: no bundle comes with a language model."""


def load_network(model: str | Path) -> BundleNetwork:
    """Load a bundle's network on the CPU, in evaluation mode; download its weights if they are not here.

    Raises:
        ConfigError: no such bundle.
        CheckpointError: the weights cannot be downloaded, or the file is not them.
    """
    known = describe(model)
    _, bundle = _find(model)
    if not known.weights.is_file():
        _download(known)
    settings = {"model_dir": str(known.weights.parent), "map_location": "cpu", "weights_only": True}
    try:
        with torch.random.fork_rng(devices=[]):  # torchaudio draws weights first; they are replaced
            network = bundle.get_model(dl_kwargs=settings)
    except Exception as error:  # torch raises errors of nine kinds for a file that is no weights
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, RuntimeError) and "alloc" in reason:
            raise AsrError(f"{PREFIX}{known.name}: not enough memory for its weights ({reason})") from error
        raise CheckpointError(
            f"not the weights of {PREFIX}{known.name}, or not all of them ({reason}); delete it and run again, "
            f"or put {known.url} there",
            known.weights,
        ) from error

    # With normalised input it comes in a wrapper that normalises a batch as a whole; ours does an utterance.
    inner = network.model if bundle._normalize_waveform else network
    return BundleNetwork(BundleConfig(bundle=known.name), inner, bundle.get_labels()).eval()


def _download(known: BundleDescription) -> None:
    """Download a bundle's weights. torch.hub's own download takes a truncated file for whole, and writes to stdout."""
    from asr.download.fetch import fetch
    from asr.download.remote import Remote

    remedy = f"or fetch that file elsewhere and put it at {known.weights}"
    try:
        fetch(Remote(known.url), known.weights.parent, remedy=remedy)
    except AsrError as error:
        raise CheckpointError(f"{PREFIX}{known.name}: its weights are not here: {error}") from error


def parts(model: str | Path) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of a bundle's network in order, for people; no weights are needed.

    Raises:
        ConfigError: no such bundle.
    """
    _, bundle = _find(model)
    from torchaudio.models import wav2vec2_model

    with torch.device("meta"):
        network = wav2vec2_model(**bundle._params)
    return parts_of(network)


def _find(model: str | Path) -> tuple[str, Wav2Vec2ASRBundle]:
    """Return the name and the bundle of ``torchaudio:NAME``.

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
