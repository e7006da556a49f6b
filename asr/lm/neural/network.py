"""A recurrent language model over the tokens of a text: LSTM or GRU.

A sentence is its tokens between two boundaries; the boundary has id 0, the acoustic blank's, which no text has. Each
sentence is scored by itself, from the state after the boundary.

Training reads sentences one behind the other. A reset input before each boundary brings the state to where every
sentence starts, whatever came before: it closes the gates through which the old state would pass. Its weight
is -10,000 on the forget and input gates (LSTM) or the reset and update gates (GRU), so torch's kernels do it exactly.

Axes: t steps of a window, b streams, n states, s numbers of a state, v vocabulary, h units, g gates.

Source: Mikolov et al. 2010, "Recurrent neural network based language model"; Zaremba et al. 2014, "Recurrent Neural
Network Regularization" (dropout between layers, not inside the recurrence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from asr.config import Stage
from asr.data.tokenizer import BLANK_ID, Tokenizer
from asr.model.cpu.dropout import Dropout
from asr.runtime import to_device

Doubles = npt.NDArray[np.float64]

#: stands before the first token of a sentence and behind its last
BOUNDARY = BLANK_ID
#: sigmoid(-10,000) is 0 in every precision
_CLOSED = -1e4
#: sentences that are scored side by side, at most
_TOGETHER = 2048
#: sentences that are worth a thread
_LEAST_PART = 16


class RnnConfig(Stage):
    """The shape of the network."""

    cell: Literal["lstm", "gru"] = "lstm"
    layers: int = Field(1, ge=1, le=8)
    #: units of each layer
    hidden: int = Field(512, ge=1, le=8192)
    #: numbers that stand for a token; tied, the last layer is brought to as many
    embed: int = Field(128, ge=1, le=8192)
    #: whether the output's weights are the embeddings: fewer parameters, for many tokens
    tied: bool = False
    #: of embeddings, between layers and before the output
    dropout: float = Field(0.2, ge=0, lt=1)


class RnnNetwork(nn.Module):
    """Maps tokens to logits of the next token.

    Token ``vocabulary_size`` is the reset: nothing is predicted after it.
    """

    #: what the reset gives to the gates of every layer
    closed: Tensor

    def __init__(self, cfg: RnnConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.vocabulary_size = vocabulary_size
        gates = 4 if cfg.cell == "lstm" else 3
        needs_projection = cfg.tied and cfg.embed != cfg.hidden

        self.embedding = nn.Embedding(vocabulary_size + 1, cfg.embed)
        sizes = [cfg.embed, *[cfg.hidden] * (cfg.layers - 1)]
        self.layers = nn.ModuleList(_Layer(size, cfg.hidden, gates) for size in sizes)
        self.project = nn.Linear(cfg.hidden, cfg.embed, bias=False) if needs_projection else None
        self.weight = None if cfg.tied else nn.Parameter(torch.empty(vocabulary_size, cfg.hidden))
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = Dropout(cfg.dropout)

        nn.init.normal_(self.embedding.weight, std=cfg.embed**-0.5 if cfg.tied else 1.0)
        if self.weight is not None:
            nn.init.uniform_(self.weight, -(cfg.hidden**-0.5), cfg.hidden**-0.5)

        # On the CPU also in a network that is planned without memory: it is no weight, and no file has it.
        closed = torch.zeros(gates * cfg.hidden, 1, device="cpu")
        closed[: 2 * cfg.hidden] = _CLOSED  # torch's order: input, forget, cell, output; reset, update, candidate
        self.register_buffer("closed", closed, persistent=False)

    @property
    def state_size(self) -> int:
        """Numbers of one state: of every layer its output, and with LSTM its cell."""
        return self.cfg.hidden * self.cfg.layers * (2 if self.cfg.cell == "lstm" else 1)

    def forward(self, tokens_tb: Tensor, states_bs: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits after each token, and the states after the last one.

        Shapes: (t, b), (b, s) -> (t, b, v), (b, s).
        """
        x_tbe = self.dropout(self.embedding(tokens_tb))
        reset_tb1 = (tokens_tb == self.vocabulary_size).to(x_tbe.dtype)[..., None]
        after = []
        for layer, state_bs in zip(self.layers, states_bs.chunk(self.cfg.layers, dim=1), strict=True):
            x_tbe, state = layer(x_tbe, reset_tb1, state_bs, self.closed, self.cfg.cell)
            x_tbe = self.dropout(x_tbe)
            after.append(state)
        return self.output(x_tbe), torch.cat(after, dim=1).to(states_bs.dtype)

    def layer(self, i: int) -> _Layer:
        """Return one recurrent layer; the first reads the embeddings."""
        layer = self.layers[i]
        assert isinstance(layer, _Layer)  # a ModuleList holds any module
        return layer

    def output(self, x_h: Tensor) -> Tensor:
        """Return the logits of the last layer's output."""
        if self.project is not None:
            x_h = self.project(x_h)
        weight = self.embedding.weight[: self.vocabulary_size] if self.weight is None else self.weight
        return F.linear(x_h, weight, self.bias)


class _Layer(nn.Module):
    """The weights of one recurrent layer, in torch's shapes and order."""

    def __init__(self, inputs: int, hidden: int, gates: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.zeros(gates * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(gates * hidden))
        nn.init.uniform_(self.weight_ih, -(hidden**-0.5), hidden**-0.5)
        nn.init.uniform_(self.weight_hh, -(hidden**-0.5), hidden**-0.5)
        if gates == 4:  # remember, until there is a reason to forget (Jozefowicz et al. 2015, section 3)
            nn.init.ones_(self.bias_ih[hidden : 2 * hidden])

    def forward(
        self, x_tbe: Tensor, reset_tb1: Tensor, state_bs: Tensor, closed: Tensor, cell: str
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over a window. Shapes: (t, b, e), (t, b, 1), (b, s) -> (t, b, h), (b, s)."""
        x = torch.cat([x_tbe, reset_tb1.to(x_tbe.dtype)], dim=-1)
        weights = [torch.cat([self.weight_ih, closed], dim=1), self.weight_hh, self.bias_ih, self.bias_hh]
        parts = [part[None].contiguous() for part in state_bs.chunk(2 if cell == "lstm" else 1, dim=1)]
        if x.device.type != "cuda":
            return self._run_kernel(x, parts, weights, cell)

        from asr.model.cuda.recurrent import one_chunk

        # Autocast would cast the kernel's tensors to float16, also where bfloat16 was asked for.
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        with torch.autocast("cuda", enabled=False):
            parts = [part.to(dtype) for part in parts]
            return self._run_kernel(x.to(dtype), parts, one_chunk(weights, dtype), cell)

    def _run_kernel(self, x: Tensor, parts: list[Tensor], weights: list[Tensor], cell: str) -> tuple[Tensor, Tensor]:
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        rest = (True, 1, 0.0, self.training, False, False)
        if cell == "lstm":
            out_tbh, h_1bh, c_1bh = torch._VF.lstm(x, tuple(parts), weights, *rest)
            return out_tbh, torch.cat([h_1bh[0], c_1bh[0]], dim=1)
        out_tbh, h_1bh = torch._VF.gru(x, parts[0], weights, *rest)
        return out_tbh, h_1bh[0]


@dataclass
class RnnModel:
    """A network with its tokenizer, to score texts. In evaluation mode, float32."""

    network: RnnNetwork
    tokenizer: Tokenizer
    #: what is known of its making; nothing in it is needed to use it
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    @property
    def device(self) -> torch.device:
        return self.network.bias.device

    def begin(self) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of a sentence's first token, and the state before it. Shapes: (1, v), (1, s)."""
        states_1s = torch.zeros(1, self.network.state_size, device=self.device)
        _, states_1s = self.advance(states_1s, self.indices([self.network.vocabulary_size]))
        return self.advance(states_1s, self.indices([BOUNDARY]))

    @torch.no_grad()
    def advance(self, states_ns: Tensor, tokens_n: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the next token after one more token, and the states after it.

        Shapes: (n, s), (n) -> (n, v), (n, s).
        """
        net = self.network
        after = []
        gates_ng = x_nh = self._first_gates_vg[tokens_n]
        for i, state_ns in enumerate(states_ns.chunk(net.cfg.layers, dim=1)):
            layer = net.layer(i)
            if i:
                gates_ng = F.linear(x_nh, layer.weight_ih, layer.bias_ih)
                gates_ng += net.closed[:, 0] * (tokens_n == net.vocabulary_size).to(gates_ng.dtype)[:, None]
            x_nh, state_ns = _step_cell(net.cfg.cell, gates_ng, state_ns, layer)
            after.append(state_ns)
        return net.output(x_nh).log_softmax(dim=1), torch.cat(after, dim=1)

    @cached_property
    def _first_gates_vg(self) -> Tensor:
        """The input of the first layer's gates for each token and the reset: looked up, not multiplied."""
        layer = self.network.layer(0)
        with torch.no_grad():
            gates_vg = F.linear(self.network.embedding.weight, layer.weight_ih, layer.bias_ih)
            gates_vg[-1] += self.network.closed[:, 0]
            return gates_vg

    def forget_tables(self) -> None:
        """Drop what was computed from the weights; must be called when they have changed."""
        self.__dict__.pop("_first_gates_vg", None)

    def score(self, sentences: Sequence[Sequence[int]]) -> Doubles:
        """Return ln p of each sentence, its end included: the sum over its tokens, each given those before it.

        Sentences that begin alike share the work on what they begin with, wherever they stand: the hypotheses of an
        utterance do. Neither neighbours nor lengths change a score but for rounding.

        Shapes: n sentences -> (n).
        """
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        by_length = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        parts: list[list[int]] = []
        for start in range(0, len(by_length), _TOGETHER):
            # The sentences of a thread begin alike, as far as possible.
            chunk = sorted(by_length[start : start + _TOGETHER], key=lambda i: list(sentences[i]))
            size = max(math.ceil(len(chunk) / threads), _LEAST_PART)
            parts += [chunk[at : at + size] for at in range(0, len(chunk), size)]

        scores_n = np.zeros(len(sentences))

        def score_part(part: list[int]) -> None:
            scores_n[part] = self._score([sentences[i] for i in part])

        # One torch thread each: a step is too little to share, and waiting for a busy core costs many times its time.
        self._first_gates_vg  # noqa: B018  # made once, before the threads ask for it
        if self.device.type == "cuda":
            for part in parts:
                score_part(part)
            return scores_n
        with ThreadPoolExecutor(threads, "asr-lm", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(score_part, parts))
        torch.set_num_threads(torch.get_num_threads())  # what a thread of the pool set is the default of later ones
        return scores_n

    def _score(self, sentences: Sequence[Sequence[int]]) -> Doubles:
        lengths_n = np.array([len(tokens) + 1 for tokens in sentences])
        tokens_nt = np.full((len(sentences), lengths_n.max()), BOUNDARY, np.int64)
        for row_t, tokens in zip(tokens_nt, sentences, strict=True):
            row_t[: len(tokens)] = tokens

        log_probs, states = self.begin()
        #: the sentences that a step adds to, and what it adds: read at the end, so that a GPU is not waited for
        found: list[tuple[npt.NDArray[np.int64], Tensor]] = []
        left = np.arange(len(sentences))
        prefix_n = np.zeros(len(sentences), np.int64)  # which of the different beginnings a sentence has
        for step in range(tokens_nt.shape[1]):
            token_n = tokens_nt[left, step]
            found.append((left, log_probs[self.indices(prefix_n), self.indices(token_n)]))

            unfinished = lengths_n[left] > step + 1
            if not unfinished.any():
                break
            left = left[unfinished]
            keys = prefix_n[unfinished] * self.network.vocabulary_size + token_n[unfinished]
            different, prefix_n = np.unique(keys, return_inverse=True)
            parent, token = np.divmod(different, self.network.vocabulary_size)
            log_probs, states = self.advance(states[self.indices(parent)], self.indices(token))

        added = torch.cat([log_probs_n for _, log_probs_n in found]).double().cpu().numpy()
        totals_n = np.zeros(len(sentences))
        ends = np.cumsum([len(rows) for rows, _ in found])
        for (rows, _), end in zip(found, ends, strict=True):
            totals_n[rows] += added[end - len(rows) : end]
        return totals_n

    def indices(self, values: npt.NDArray[np.int64] | Sequence[int]) -> Tensor:
        return to_device(torch.as_tensor(values), self.device)

    def score_texts(self, texts: Sequence[str]) -> Doubles:
        """Return ln p of each text, its end included.

        Raises:
            DataError: a text has a character that the model does not know.
        """
        return self.score([self.tokenizer.encode(text) for text in texts])


def _step_cell(cell: str, gates_ng: Tensor, state_ns: Tensor, layer: _Layer) -> tuple[Tensor, Tensor]:
    """Return the output and the state of a layer after one step; ``gates_ng`` is what the input gives to its gates."""
    weight_hh, bias_hh = layer.weight_hh, layer.bias_hh
    if cell == "lstm":
        h_nh, c_nh = state_ns.chunk(2, dim=1)
        i_nh, f_nh, g_nh, o_nh = (gates_ng + F.linear(h_nh, weight_hh, bias_hh)).chunk(4, dim=1)
        c_nh = f_nh.sigmoid() * c_nh + i_nh.sigmoid() * g_nh.tanh()
        h_nh = o_nh.sigmoid() * c_nh.tanh()
        return h_nh, torch.cat([h_nh, c_nh], dim=1)

    xr_nh, xz_nh, xn_nh = gates_ng.chunk(3, dim=1)
    hr_nh, hz_nh, hn_nh = F.linear(state_ns, weight_hh, bias_hh).chunk(3, dim=1)
    z_nh = (xz_nh + hz_nh).sigmoid()
    h_nh = (1 - z_nh) * (xn_nh + (xr_nh + hr_nh).sigmoid() * hn_nh).tanh() + z_nh * state_ns
    return h_nh, h_nh


def sample(
    model: RnnModel, num: int, *, temperature: float = 1.0, prefix: str = "", seed: int = 1, longest: int = 500
) -> list[str]:
    """Draw texts from a model, each by random numbers of its own: the third is the same however many are drawn.

    Args:
        temperature: Log-probabilities are divided by it; 0 takes the most probable token.
        prefix: How each text begins; with subwords, spaces at its end have no say.
        longest: Tokens after which a text is cut.

    Raises:
        DataError: the prefix has a character that the model does not know.
    """
    if model.tokenizer.kind != "char":
        prefix = prefix.rstrip(" ")  # it belongs to the word after it, which is not there yet
    given = list(model.tokenizer.encode(prefix))
    first_log_probs, first_states = model.begin()
    for token in given:
        first_log_probs, first_states = model.advance(first_states, model.indices([token]))

    texts = []
    for number in range(num):
        source = np.random.default_rng((seed, number))
        tokens = list(given)
        log_probs, states = first_log_probs, first_states
        for _ in range(longest):
            token = _draw(log_probs[0].cpu().numpy(), temperature, source)
            if token == BOUNDARY:
                break
            tokens.append(token)
            log_probs, states = model.advance(states, model.indices([token]))
        texts.append(model.tokenizer.decode(tokens))
    return texts


def _draw(log_probs_v: npt.NDArray[np.float32], temperature: float, source: np.random.Generator) -> int:
    if temperature == 0:
        return int(log_probs_v.argmax())
    scaled_v = log_probs_v.astype(np.float64) / temperature
    sums_v = np.cumsum(np.exp(scaled_v - scaled_v.max()))
    return min(int(np.searchsorted(sums_v, source.random() * sums_v[-1], side="right")), len(sums_v) - 1)


def bits(log_prob: float, characters: int) -> float:
    """Return bits per character of a log-probability in nats."""
    return -log_prob / math.log(2) / max(characters, 1)
