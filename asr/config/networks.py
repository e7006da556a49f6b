"""The keys of networks: one stage for each kind, and ``ModelConfig``, which names the kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from asr.config.stage import Stage, check_filled

_Stride = Annotated[int, Field(ge=1, le=16)]


class ConvConfig(Stage):
    """One convolution over time and frequency."""

    channels: int = Field(32, ge=1, le=1024)
    #: kernel in frames and bins; odd, so that "same" padding is symmetric and the stride formula is exact
    kernel_tf: tuple[int, int] = (11, 41)
    stride_tf: tuple[_Stride, _Stride] = (2, 2)

    @field_validator("kernel_tf")
    @classmethod
    def _odd(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(not 1 <= k <= 255 or k % 2 == 0 for k in value):
            raise ValueError(f"both sides must be odd, from 1 to 255, got {list(value)}")
        return value


_Dilation = Annotated[int, Field(ge=1, le=99)]


class TdnnConfig(Stage):
    """A time-delay network's convolutions over time. Lists: one value per layer, the last for all layers after it."""

    #: taps of each convolution; odd, so that padding is symmetric and the step formula is exact
    kernels: tuple[int, ...] = Field((5, 3), max_length=20)
    #: steps from one tap to the next
    dilations: Annotated[tuple[_Dilation, ...], AfterValidator(check_filled)] = Field((1, 1, 2, 3), max_length=20)
    #: of the first layer; the others have 1
    stride: int = Field(1, ge=1, le=16)

    @field_validator("kernels")
    @classmethod
    def _kernels(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(not 1 <= k <= 99 or k % 2 == 0 for k in value):
            raise ValueError(f"needs odd numbers from 1 to 99, got {list(value)}")
        return value


class MlpConfig(Stage):
    """The window of a feed-forward network."""

    #: frames (after convolutions: their steps) on each side of the one that a step stands for
    context: int = Field(10, ge=0, le=49)
    #: from one window to the next
    stride: int = Field(1, ge=1, le=16)


class ConformerConfig(Stage):
    """A Conformer or FastConformer: convolutions that subsample, then layers of attention and convolution.

    ``model.layers``, ``model.hidden`` and ``model.dropout`` hold here, too.

    Source: Gulati et al. 2020, "Conformer"; Rekesh et al. 2023, "Fast Conformer with linearly scalable attention".
    """

    #: frames per step
    subsampling: Literal[4, 8] = 8
    subsampling_channels: int = Field(256, ge=1, le=8192)
    #: convolutions after the first: depthwise, of each channel alone (FastConformer), or full, over all (Conformer)
    subsampling_kind: Literal["depthwise", "full"] = "depthwise"
    heads: int = Field(4, ge=1, le=256)
    #: units of a feed-forward part, as a multiple of model.hidden
    feed_forward: int = Field(4, ge=1, le=32)
    #: steps that a convolution sees, odd
    kernel: int = Field(9, ge=1, le=99)
    #: batch: over the valid steps of a batch; layer: over the values of a step
    norm: Literal["batch", "layer"] = "batch"
    #: biases of linear layers and convolutions
    bias: bool = True
    #: what the subsampling gives is multiplied by the root of model.hidden
    scale_input: bool = True
    #: probability that training skips the last layer; it rises linearly from 0 at the input (Huang et al. 2016)
    layer_drop: float = Field(0.0, ge=0, lt=1)
    #: layers, from 1, after which CTC is applied, too (train.inter_weight)
    inter_layers: tuple[int, ...] = Field((), max_length=20)
    #: what the layers of inter_layers predict is added to the input of the next (Nozaki & Komatsu 2021)
    self_conditioning: bool = False

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value

    @field_validator("inter_layers")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted({one for one in value if one > 0}):
            raise ValueError(f"needs rising numbers from 1, got {list(value)}")
        return value


class SampleConvConfig(Stage):
    """A convolution over samples, without padding."""

    channels: int = Field(ge=1, le=8192)
    kernel: int = Field(ge=1, le=4096)
    stride: int = Field(ge=1, le=4096)


_Width = Annotated[int, Field(ge=1, le=16_384)]


class Wav2Vec2Shape(Stage):
    """The sizes of a wav2vec 2.0, HuBERT or WavLM. The names are those of Hugging Face's ``config.json``."""

    family: Literal["wav2vec2", "hubert", "wavlm"]
    convs: tuple[SampleConvConfig, ...] = Field(min_length=1, max_length=32)
    conv_bias: bool
    #: "group": one over time, after the first convolution; "layer": over channels, after each
    feat_extract_norm: Literal["group", "layer"]
    feat_proj_layer_norm: bool
    hidden_size: _Width
    num_hidden_layers: int = Field(ge=1, le=256)
    num_attention_heads: int = Field(ge=1, le=1024)
    intermediate_size: int = Field(ge=1, le=65_536)
    #: norms before attention and before the feed-forward part, instead of behind them
    do_stable_layer_norm: bool
    layer_norm_eps: float = Field(gt=0, le=1)
    num_conv_pos_embeddings: int = Field(ge=1, le=4096)
    num_conv_pos_embedding_groups: int = Field(ge=1, le=4096)
    #: units of the adapter behind each layer (MMS), one for each language
    adapter_attn_dim: _Width | None
    #: of WavLM's relative positions
    num_buckets: int = Field(ge=4, le=65_536)
    max_bucket_distance: int = Field(ge=2, le=1_000_000)

    @model_validator(mode="after")
    def _fitting(self) -> Wav2Vec2Shape:
        for what in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            parts = getattr(self, what)
            if self.hidden_size % parts:
                raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {what} {parts}")
        if self.max_bucket_distance <= self.num_buckets // 4:
            raise ValueError(f"max_bucket_distance {self.max_bucket_distance} is below a quarter of num_buckets")
        return self


_Probability = Annotated[float, Field(ge=0, lt=1)]


class Wav2Vec2Config(Stage):
    """A wav2vec 2.0, HuBERT or WavLM, and how training disturbs it; ``model.dropout`` is that of its hidden values.

    Source: Baevski et al. 2020, "wav2vec 2.0", section 4 and appendix B.
    """

    #: null: that of the model that train.init names
    shape: Wav2Vec2Shape | None = None
    #: of the weights of attention
    attention_dropout: _Probability = 0.0
    #: inside the feed-forward parts
    activation_dropout: _Probability = 0.0
    #: probability that training skips a layer
    layer_drop: _Probability = 0.0
    #: share of steps at which a mask begins, and its length
    mask_time_probability: _Probability = 0.0
    mask_time_steps: int = Field(10, ge=1, le=10_000)
    #: the same over the values of a step
    mask_channel_probability: _Probability = 0.0
    mask_channel_width: int = Field(64, ge=1, le=16_384)

    @model_validator(mode="after")
    def _masks_leave_something(self) -> Wav2Vec2Config:
        for axis, length in (("time", "mask_time_steps"), ("channel", "mask_channel_width")):
            share = getattr(self, f"mask_{axis}_probability") * getattr(self, length)
            if share > 1:
                raise ValueError(
                    f"mask_{axis}_probability times {length} is {share:g}, and at most 1: it is the share of places at "
                    f"which a mask begins, as in the paper (transformers' mask_*_prob is this product)"
                )
        return self


#: encoders that take features as they are
_OWN_CONVOLUTIONS = ("conformer", "wav2vec2")


class ModelConfig(Stage):
    """The network."""

    #: what follows the convolutions: recurrent layers, a time-delay network, or a feed-forward network over a window;
    #: conformer and wav2vec2 have convolutions of their own
    encoder: Literal["recurrent", "tdnn", "mlp", "conformer", "wav2vec2"] = "recurrent"
    #: may be empty before tdnn and mlp, and over features.kind hf; is empty with conformer and wav2vec2
    conv: tuple[ConvConfig, ...] = Field((ConvConfig(), ConvConfig(kernel_tf=(11, 21), stride_tf=(1, 2))), max_length=3)
    #: the clipped ReLU is min(max(x, 0), clip): 20 in the paper
    relu_clip: float = Field(20.0, gt=0, le=1e6)
    #: recurrent: of its layers; the other encoders have no cells
    cell: Literal["gru", "lstm", "tanh"] = "gru"
    layers: int = Field(5, ge=1, le=100)
    #: units of a layer; recurrent: units per direction
    hidden: int = Field(800, ge=1, le=8192)
    #: recurrent: two directions or one
    bidirectional: bool = True
    #: recurrent: how the two directions are combined: sum (the paper) or concat
    merge: Literal["sum", "concat"] = "sum"
    #: from the second layer on, a layer's input is added to its output
    residual: bool = False
    #: recurrent: steps of future context of the row convolution after one-direction layers; 0 for none
    lookahead_steps: int = Field(0, ge=0, le=200)
    tdnn: TdnnConfig = TdnnConfig()
    mlp: MlpConfig = MlpConfig()
    conformer: ConformerConfig = ConformerConfig()
    wav2vec2: Wav2Vec2Config = Wav2Vec2Config()
    #: sequence-wise batch norm after each convolution and of each layer's input projection
    norm: bool = True
    #: dropout between layers (one mask value per element), not inside the recurrence
    dropout: float = Field(0.0, ge=0, lt=1)

    @property
    def time_strides(self) -> tuple[int, ...]:
        """Return the stride of each layer that has one over time; their product is the frames per step."""
        convs = tuple(layer.stride_tf[0] for layer in self.conv)
        if self.encoder == "wav2vec2":
            return tuple(conv.stride for conv in self.wav2vec2.shape.convs) if self.wav2vec2.shape else ()
        subsampling = (2,) * (self.conformer.subsampling.bit_length() - 1)
        encoder = {
            "recurrent": (),
            "tdnn": (self.tdnn.stride,),
            "mlp": (self.mlp.stride,),
            "conformer": subsampling,
        }[self.encoder]
        return convs + encoder

    @property
    def has_other_draws(self) -> bool:
        """Return true if training draws more than the dropout: masks inside the network, or layers that are skipped."""
        own = self.wav2vec2
        masks = own.mask_time_probability or own.mask_channel_probability
        drops = own.attention_dropout or own.activation_dropout or own.layer_drop or self.conformer.layer_drop
        return bool(masks or drops)

    @model_validator(mode="before")
    @classmethod
    def _own_convolutions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("encoder") in _OWN_CONVOLUTIONS and "conv" not in data:
            return {**data, "conv": ()}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.lookahead_steps and self.encoder != "recurrent":
            raise ValueError(f"lookahead_steps needs encoder: recurrent, not {self.encoder} (which sees both sides)")
        if self.bidirectional and self.lookahead_steps:
            raise ValueError("lookahead_steps needs bidirectional: false (a bidirectional layer sees the whole future)")
        if self.conv and self.encoder in _OWN_CONVOLUTIONS:
            raise ValueError(f"encoder: {self.encoder} has convolutions of its own: leave out conv, or set it to []")

        parts = {"tdnn": TdnnConfig, "mlp": MlpConfig, "conformer": ConformerConfig, "wav2vec2": Wav2Vec2Config}
        for name, kind in parts.items():
            given, default = getattr(self, name), kind()
            if name != self.encoder and given != default:
                raise ValueError(
                    f"{name} is set, but the encoder is {self.encoder}: set encoder: {name}, or leave it out"
                )

        for key in ("kernels", "dilations") if self.encoder == "tdnn" else ():
            values = getattr(self.tdnn, key)
            if len(values) > self.layers and values != getattr(TdnnConfig(), key):
                raise ValueError(f"tdnn.{key} has {len(values)} values for {self.layers} layers")

        self._check_conformer()
        return self

    def _check_conformer(self) -> None:
        if self.encoder != "conformer":
            return
        if self.hidden % self.conformer.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of conformer.heads {self.conformer.heads}")
        if self.conformer.self_conditioning and not self.conformer.inter_layers:
            raise ValueError("conformer.self_conditioning needs conformer.inter_layers, whose predictions it adds")
        if self.conformer.inter_layers and self.conformer.inter_layers[-1] >= self.layers:
            raise ValueError(
                f"conformer.inter_layers must lie below the last of {self.layers} layers, "
                f"got {list(self.conformer.inter_layers)}"
            )
