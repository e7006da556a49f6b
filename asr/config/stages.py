"""The keys of a configuration: one frozen, strict model per stage, with units in the names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from asr.config.networks import ModelConfig
from asr.config.sound import AudioConfig, FeatureConfig, TextConfig
from asr.config.stage import Stage, check_filled


def _check_rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"needs the lower number first, got {list(value)}")
    return value


_Decibels = Annotated[float, Field(ge=-200, le=200)]
#: two levels, the lower one first
Range = Annotated[tuple[_Decibels, _Decibels], AfterValidator(_check_rising)]


class SpecAugmentConfig(Stage):
    """SpecAugment without time warping (Park et al. 2019, section 2)."""

    freq_masks: int = Field(0, ge=0, le=1000)
    #: widest frequency mask, in bins
    freq_width_bins: int = Field(15, ge=0, le=100_000)
    time_masks: int = Field(0, ge=0, le=1000)
    #: widest time mask
    time_width_s: float = Field(0.3, ge=0, le=3600)
    #: and no wider than this share of the utterance
    time_width_fraction: float = Field(0.1, ge=0, le=1)


class NoiseConfig(Stage):
    """Noise that is added to training utterances."""

    #: probability that an utterance gets noise in an epoch
    probability: float = Field(0.0, ge=0, le=1)
    #: level of the speech above the noise, drawn between these
    snr_db: Range = (5.0, 25.0)
    #: a folder of noises, one channel each; null: synthetic ones, from white to brown
    folder: str | None = None


class ReverbConfig(Stage):
    """Reverberation that is added to training utterances."""

    #: probability that an utterance gets reverberation in an epoch
    probability: float = Field(0.0, ge=0, le=1)
    #: a folder of impulse responses, one channel each; null: synthetic ones
    folder: str | None = None
    #: synthetic rooms: time in which the sound falls by 60 dB
    rt60_s: tuple[float, float] = (0.1, 0.6)
    #: synthetic rooms: level of the direct sound above all reflected sound
    direct_db: Range = (0.0, 15.0)

    @field_validator("rt60_s")
    @classmethod
    def _rt60_s(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.01 <= value[0] <= value[1] <= 5:
            raise ValueError(f"needs two rising numbers between 0.01 and 5, got {list(value)}")
        return value


_Pause = Annotated[float, Field(ge=0, le=60)]


class JoinedConfig(Stage):
    """Training utterances joined to longer ones, so that the network learns to go on after one has ended."""

    #: share of the utterances, drawn anew in each epoch, that are trained on joined to others
    share: float = Field(0.0, ge=0, le=1)
    #: so many together at most; the number is drawn, from 2. Longer than batch.max_utterance_s in all is never made
    most: int = Field(3, ge=2, le=100)
    #: pause between two, drawn between these; it sounds like their own quiet parts
    pause_s: Annotated[tuple[_Pause, _Pause], AfterValidator(_check_rising)] = (0.1, 0.8)
    #: between their texts; empty for languages that write no spaces
    separator: str = " "


_Speed = Annotated[float, Field(ge=0.5, le=2)]


class AugmentConfig(Stage):
    """Changes of the training audio and features, drawn for each utterance and epoch."""

    #: one factor is drawn per utterance and epoch; 1.1 is faster and higher (resampling, as Kaldi's speed perturbation)
    speeds: Annotated[tuple[_Speed, ...], AfterValidator(check_filled)] = Field((1.0,), max_length=1000)
    #: frequencies are stretched by a factor from 1 - warp to 1 + warp, as by a vocal tract of another length
    warp: float = Field(0.0, ge=0, le=0.3)
    #: gain, drawn between these; with features normalised by utterance it has almost no effect
    gain_db: Range = (0.0, 0.0)
    reverb: ReverbConfig = ReverbConfig()
    noise: NoiseConfig = NoiseConfig()
    spec: SpecAugmentConfig = SpecAugmentConfig()
    joined: JoinedConfig = JoinedConfig()


class BatchConfig(Stage):
    """The size of batches, and how they are loaded."""

    #: padded audio in one batch: longest utterance x number of utterances; auto: the most that fits into memory, found
    #: when the run starts
    max_batch_s: Literal["auto"] | Annotated[float, Field(gt=0, le=1e7)] = 120.0
    max_utterances: int = Field(16, ge=1, le=100_000)
    #: longer training utterances are left out, and counted; null keeps all
    max_utterance_s: float | None = Field(20.0, gt=0, le=1e6)
    #: features kept in memory up to this many MiB, the rest computed each epoch
    feature_cache_mib: int = Field(2048, ge=0, le=2**24)
    #: a folder in which features are kept, for later epochs and runs; null: none. Worth it with features.kind: hf
    feature_folder: str | None = None
    #: batches prepared ahead by this many threads; null: one on a CPU; on a GPU, and with features.kind: hf, one per
    #: core, divided among the processes of the machine
    workers: int | None = Field(None, ge=0, le=64)


_Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Stage):
    """AdamW and its learning rate."""

    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.98)
    #: share of all steps over which the rate rises linearly from 0
    warmup_fraction: float = Field(0.1, ge=0, le=1)
    #: share of all steps after the warm-up over which the rate stays
    hold_fraction: float = Field(0.0, ge=0, le=1)
    #: after that: cosine to 0, linear to 0, or constant
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    #: gradients are scaled down to this norm; 0 switches clipping off
    clip_norm: float = Field(5.0, ge=0)
    #: what weight_decay pulls the weights to: zero, or the weights that training starts with (L2-SP, Li et al. 2018)
    decay_towards: Literal["zero", "start"] = "zero"
    #: by part of the network (the beginning of its parameters' names): what its learning rate is multiplied by
    lr_scales: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field({}, max_length=1000)

    @model_validator(mode="after")
    def _rise_and_hold(self) -> OptimConfig:
        if self.warmup_fraction + self.hold_fraction > 1:
            raise ValueError("warmup_fraction and hold_fraction together are at most 1")
        return self


_Chunk = Annotated[float, Field(ge=0.1, le=3600)]


class TrainConfig(Stage):
    """The length of a run, its loss, validation, checkpoints and the models that are kept."""

    epochs: int = Field(30, ge=1, le=1_000_000)
    #: stop after this many optimiser steps (for trials); null: by epochs only
    max_steps: int | None = Field(None, ge=1, le=10**12)
    #: batches whose gradients make one update
    accumulate: int = Field(1, ge=1, le=1024)
    seed: int = Field(1, ge=0, lt=2**31)
    #: start from the weights of this model or run (a folder, hf:FOLDER_OR_NAME or nemo:FILE); null: random weights
    init: str | None = None
    #: first epoch in order of duration (Deep Speech 2, section 3.3)
    sortagrad: bool = True
    #: of products, the loss is in float32; fp16: on CUDA only, with a loss scale; auto: what the machine multiplies
    #: natively: bf16, else fp16 on a GPU with tensor cores, else fp32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    #: intra-op threads on CPU; null: one per core
    threads: int | None = Field(None, ge=1, le=4096)
    #: true: the backward pass computes the convolutions again (of conformer and wav2vec2 each layer), instead of their
    #: values being kept; auto: only on a GPU whose memory would be too small otherwise
    activation_checkpointing: Literal["auto"] | bool = "auto"
    validate_every_epochs: int = Field(1, ge=1, le=1_000_000)
    #: model folders kept, by dev WER
    keep_best: int = Field(1, ge=1, le=1_000_000)
    #: stop when dev WER has not improved for this many validations; null: never
    early_stop: int | None = Field(None, ge=1, le=1_000_000)
    #: a resumable checkpoint at least this often (and before every validation)
    checkpoint_every_s: float = Field(300.0, gt=0, le=1e9)
    #: weights used for validation and saving are an exponential moving average with this decay; 0: the raw weights
    ema_decay: float = Field(0.0, ge=0, lt=1)
    #: model folders kept of the last validated epochs, beside the best ones (for asr average); 0: none
    keep_last: int = Field(0, ge=0, le=1_000_000)
    #: share of a penalty in the loss: how far the distributions are from uniform (Kim et al. 2018); 0: plain CTC
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    #: above 0, each utterance is trained on under two masks at once, and this times the disagreement of its two outputs
    #: is added to the loss (CR-CTC, Yao et al. 2024, who use 0.2); a step costs twice as much. 0: one view
    consistency: float = Field(0.0, ge=0, le=10)
    #: recurrent layers start anew after this many seconds, drawn between these for each step ("soft forgetting",
    #: Audhkhasi et al. 2019); in use they see the whole utterance. null: in training too
    chunk_s: Annotated[tuple[_Chunk, _Chunk], AfterValidator(_check_rising)] | None = None
    #: share of the CTC losses after model.conformer.inter_layers in the loss
    inter_weight: float = Field(0.5, ge=0, lt=1)
    #: parts of the network (the beginning of their parameters' names) that are not trained until this step; null: never
    freeze: dict[str, Annotated[int, Field(ge=1, le=10**12)] | None] = Field({}, max_length=1000)
    #: points [share of the training that is done, dropout], linear in between; empty: model.dropout throughout
    dropout_schedule: tuple[tuple[float, float], ...] = Field((), max_length=1000)

    @field_validator("dropout_schedule")
    @classmethod
    def _dropout_schedule(cls, value: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        shares = [share for share, _ in value]
        if any(not 0 <= share <= 1 for share in shares) or shares != sorted(set(shares)):
            raise ValueError(f"the shares must rise, from 0 to 1, got {shares}")
        if any(not 0 <= dropout < 1 for _, dropout in value):
            raise ValueError(f"a dropout is at least 0 and below 1, got {[dropout for _, dropout in value]}")
        return value


class RunConfig(Stage):
    """Everything that decides what a training run computes."""

    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    features: FeatureConfig = FeatureConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _front_end(self) -> RunConfig:
        if not self.model.conv and self.model.encoder == "recurrent" and self.features.kind != "hf":
            raise ValueError(
                "model.conv needs 1 to 3 layers (none only with encoder: tdnn or mlp, and with features.kind: hf)"
            )
        if self.features.hf is not None and self.features.kind != "hf":
            raise ValueError(f"features.hf is set, but features.kind is {self.features.kind}: set it to hf")
        is_wave, takes_waves = self.features.kind == "wave", self.model.encoder == "wav2vec2"
        if is_wave != takes_waves:
            raise ValueError(
                f"features.kind: {self.features.kind} does not go with model.encoder: {self.model.encoder}; "
                "wave and wav2vec2 belong together"
            )
        if self.train.chunk_s is not None and self.model.encoder != "recurrent":
            raise ValueError(
                f"train.chunk_s is for recurrent layers, and model.encoder is {self.model.encoder}: leave it out"
            )
        if self.features.kind == "hf" and self.features.hf is None:
            raise ValueError("features.kind: hf needs features.hf, the published network: hf:FOLDER_OR_NAME")
        return self

    @model_validator(mode="after")
    def _two_views_differ(self) -> RunConfig:
        spec, schedule = self.augment.spec, self.train.dropout_schedule
        bands = spec.freq_masks and spec.freq_width_bins
        stretches = spec.time_masks and spec.time_width_s and spec.time_width_fraction
        drops = any(dropout for _, dropout in schedule) if schedule else self.model.dropout
        drops = drops or self.model.has_other_draws
        if self.train.consistency and not (bands or stretches or self.augment.warp or drops):
            raise ValueError(
                "train.consistency compares two views of an utterance, which are the same without augment.spec, "
                "augment.warp and dropout: set one of them, or consistency to 0"
            )
        return self
