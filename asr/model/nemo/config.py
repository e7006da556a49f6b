"""The config of a NeMo model: which network its weights are for, and what it takes as input.

Read are Conformers and FastConformers with a CTC head, alone (``EncDecCTCModel``) or beside a transducer
(``EncDecHybridRNNTCTCModel``). What else NeMo can build is refused by name, as its results would be other ones.

Source: NeMo, ``nemo/collections/asr/modules/conformer_encoder.py`` and ``audio_preprocessing.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.config import AudioConfig, FeatureConfig, ModelConfig, parse
from asr.errors import CheckpointError, ConfigError
from asr.model.nemo.archive import CONFIG

#: classes of NeMo, and the part of their weights that is the CTC head
_HEADS = {
    "EncDecCTCModel": "decoder",
    "EncDecCTCModelBPE": "decoder",
    "EncDecHybridRNNTCTCModel": "ctc_decoder",
    "EncDecHybridRNNTCTCBPEModel": "ctc_decoder",
}
#: what keys may say here, where they are given; a key that is missing stands for the first value
_ENCODER: dict[str, tuple[Any, ...]] = {
    "self_attention_model": ("rel_pos",),
    "untie_biases": (True,),
    "causal_downsampling": (False,),
    "att_context_style": ("regular",),
    "conv_norm_type": ("batch_norm", "layer_norm"),
    "reduction": (None,),
    "global_tokens": (0,),
}
_PREPROCESSOR: dict[str, tuple[Any, ...]] = {
    "normalize": ("per_feature",),
    "window": ("hann",),
    "log": (True,),
    "frame_splicing": (1,),
    "preemph": (0.97,),
    "mag_power": (2.0,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2**-24,),
    "lowfreq": (0,),
    "highfreq": (None,),
    "mel_norm": ("slaney",),
    "exact_pad": (False,),
    "stft_conv": (False,),
    "use_torchaudio": (False,),
    "n_window_size": (None,),
    "n_window_stride": (None,),
}
_NORMS = {"batch_norm": "batch", "layer_norm": "layer"}
_SUBSAMPLINGS = {"dw_striding": "depthwise", "striding": "full"}


@dataclass(frozen=True)
class NemoConfig:
    """Hold what the config of a model says."""

    #: a class of NeMo: EncDecCTCModelBPE
    architecture: str
    #: the part of the weights that is the CTC head
    head: str
    audio: AudioConfig
    features: FeatureConfig
    model: ModelConfig
    #: the file of a SentencePiece model in the archive; None: the tokens are ``labels``
    tokenizer: str | None
    labels: tuple[str, ...]


def read_config(data: Mapping[str, Any], path: Path) -> NemoConfig:
    """Make ours of the content of ``model_config.yaml``.

    Args:
        path: of the archive, for errors.

    Raises:
        CheckpointError: it is no model with CTC that is known here, a value is missing or of another type, or a size
            is out of bounds.
    """
    whole = _Section(data.get("model", data), "", path)
    architecture = str(whole.get("target", "")).rpartition(".")[2]
    if architecture not in _HEADS:
        raise CheckpointError(
            f"its target is {architecture[:80] or 'not named'}, which writes no text with CTC; read are "
            f"{', '.join(_HEADS)}",
            path,
        )
    encoder, preprocessor = whole.section("encoder"), whole.section("preprocessor")
    encoder.check_target("ConformerEncoder")
    preprocessor.check_target("AudioToMelSpectrogramPreprocessor")
    rate_hz = preprocessor.get("sample_rate", 16_000)
    tokenizer, labels = _tokens(whole, _HEADS[architecture])
    try:
        return NemoConfig(
            architecture=architecture,
            head=_HEADS[architecture],
            audio=parse(AudioConfig, {"sample_rate_hz": rate_hz}, f"{path}: {CONFIG}: preprocessor"),
            features=parse(FeatureConfig, _features(preprocessor), f"{path}: {CONFIG}: preprocessor"),
            model=parse(ModelConfig, _model(encoder, preprocessor), f"{path}: {CONFIG}: encoder"),
            tokenizer=tokenizer,
            labels=labels,
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _features(preprocessor: _Section) -> dict[str, Any]:
    preprocessor.check(_PREPROCESSOR)
    return {
        "kind": "parakeet",
        "window_s": preprocessor.get("window_size", 0.02),
        "hop_s": preprocessor.get("window_stride", 0.01),
        "fft_samples": preprocessor.get("n_fft", None),
        "num_mels": preprocessor.get("features", 64),
        "dither": preprocessor.get("dither", 1e-5),
    }


def _model(encoder: _Section, preprocessor: _Section) -> dict[str, Any]:
    encoder.check({"subsampling": tuple(_SUBSAMPLINGS), "feat_in": (preprocessor.get("features", 64),)}, is_needed=True)
    encoder.check(_ENCODER)
    width, kernel = encoder.get("d_model", 256), encoder.get("conv_kernel_size", 31)
    symmetric = [(kernel - 1) // 2] * 2 if isinstance(kernel, int) else None
    encoder.check({"conv_context_size": (None, symmetric), "feat_out": (-1, None, width)})
    # Of several contexts the first is used; -1 is all there is.
    context = encoder.get("att_context_size", [-1, -1])
    if context not in (None, [-1, -1]) and not (isinstance(context, list) and context[:1] == [[-1, -1]]):
        encoder.refuse("att_context_size", context, [-1, -1])

    channels = encoder.get("subsampling_conv_channels", -1)
    return {
        "encoder": "conformer",
        "layers": encoder.get("n_layers", None),
        "hidden": width,
        "dropout": encoder.get("dropout", 0.1),
        "conformer": {
            "subsampling": encoder.get("subsampling_factor", 4),
            "subsampling_channels": width if channels == -1 else channels,
            "subsampling_kind": _SUBSAMPLINGS[encoder.get("subsampling", "")],
            "heads": encoder.get("n_heads", 4),
            "feed_forward": encoder.get("ff_expansion_factor", 4),
            "kernel": kernel,
            "norm": _NORMS[encoder.get("conv_norm_type", "batch_norm")],
            "bias": encoder.get("use_bias", True),
            "scale_input": encoder.get("xscaling", True),
        },
    }


def _tokens(whole: _Section, head: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the SentencePiece model's name in the archive, or the letters of a model without one."""
    if not whole.get("tokenizer", None):
        decoder = whole.section("aux_ctc").section("decoder") if head == "ctc_decoder" else whole.section("decoder")
        labels = decoder.get("vocabulary", None)
        if not isinstance(labels, list) or not labels or not all(isinstance(one, str) for one in labels):
            decoder.refuse("vocabulary", labels, "a list of letters")
        return None, tuple(labels)

    tokenizer = whole.section("tokenizer")
    tokenizer.check({"type": ("bpe",)}, is_needed=True)
    named = tokenizer.get("model_path", None)
    if not isinstance(named, str) or not named:
        tokenizer.refuse("model_path", named, "the name of a SentencePiece model in the archive")
    return named.removeprefix("nemo:").removeprefix("./"), ()


@dataclass(frozen=True)
class _Section:
    """A mapping of the config, with errors that name its keys."""

    values: Any
    name: str
    path: Path

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping):
            where = self.name.removesuffix(".") or "all of it"
            kind = type(self.values).__name__
            raise CheckpointError(f"{CONFIG}: {where} must be a mapping, got {kind}", self.path)

    def section(self, key: str) -> _Section:
        return _Section(self.values.get(key), f"{self.name}{key}.", self.path)

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def check_target(self, wanted: str) -> None:
        target = str(self.values.get("_target_", ""))
        if target.rpartition(".")[2] != wanted:
            self.refuse("_target_", target, wanted)

    def check(self, known: Mapping[str, tuple[Any, ...]], is_needed: bool = False) -> None:
        """Refuse keys with another value than the known ones, and missing ones that are needed."""
        for key, values in known.items():
            if (key in self.values or is_needed) and self.values.get(key) not in values:
                self.refuse(key, self.values.get(key), " or ".join(map(repr, values)))

    def refuse(self, key: str, got: Any, expected: Any) -> None:
        got = repr(got)[:80]
        raise CheckpointError(f"{CONFIG}: {self.name}{key} is {got}, and only {expected} is read here", self.path)
