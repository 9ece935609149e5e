"""A decoder's parameters and computation, counted by formulas from the numbers of its config.

Known are multi-head latent attention and grouped-query attention, dense feed-forwards and routed experts with shared
ones, with modules for further tokens: DeepSeek-V2 and V3, Llama, Qwen2 and what is built like them; and GPT-2. Names are
those of transformers' configs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Block:
    """A part of a layer.

    Attributes:
        whole: parameters that every rank of a tensor group has.
        shared: parameters that such a group shares out.
        wide, narrow: numbers kept for the backward pass for each token, of which a tensor group shares out the wide ones.
        products: as both together, those alone that are outputs of matrix products and of attention.
    """

    whole: int
    shared: int
    wide: int
    narrow: int
    products: int


@dataclass(frozen=True)
class Architecture:
    """The numbers that count.

    Attributes:
        key_value_heads: equal to `heads` with latent attention.
        head_size: of queries and keys; `value_size` of values.
        query_rank, latent_rank, rotary: of latent attention: widths of the compressed queries, of the compressed keys and
            values, and of the rotary part of a key; latent_rank 0: grouped-query attention; query_rank 0: not compressed.
        dense_layers: layers without experts; all, where there are none.
        positions: learned ones, as GPT-2 has them, with biases everywhere and a feed-forward without a gate; else 0.
        further: modules behind the layers that predict the tokens after the next.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    value_size: int
    query_rank: int
    latent_rank: int
    rotary: int
    feed_forward: int
    dense_layers: int
    experts: int
    experts_per_token: int
    expert_width: int
    shared_experts: int
    tied: bool
    biases: bool
    positions: int
    further: int

    @classmethod
    def of(cls, config: Any, vocabulary: int | None = None) -> Architecture:
        """Of any object with the attributes of a transformers config, or of `presets.shape`."""

        def get(*names: str, default: int = 0) -> int:
            return next((int(value) for name in names if (value := getattr(config, name, None))), default)

        heads, hidden = get("num_attention_heads", "n_head"), get("hidden_size", "n_embd")
        layers, kind = get("num_hidden_layers", "n_layer"), getattr(config, "model_type", "")
        experts = get("n_routed_experts", "num_local_experts", "num_experts")
        latent = get("kv_lora_rank")
        size = get("head_dim", default=hidden // heads)
        return cls(
            vocabulary=vocabulary or get("vocab_size"),
            hidden=hidden,
            layers=layers,
            heads=heads,
            key_value_heads=heads if latent else get("num_key_value_heads", default=heads),
            head_size=get("qk_nope_head_dim") + get("qk_rope_head_dim") if latent else size,
            value_size=get("v_head_dim") if latent else size,
            query_rank=get("q_lora_rank"),
            latent_rank=latent,
            rotary=get("qk_rope_head_dim") if latent else 0,
            feed_forward=get("intermediate_size", "n_inner", default=4 * hidden),
            dense_layers=min(layers, get("first_k_dense_replace")) if experts else layers,
            experts=experts,
            experts_per_token=get("num_experts_per_tok"),
            expert_width=get("moe_intermediate_size"),
            shared_experts=get("n_shared_experts"),
            tied=bool(getattr(config, "tie_word_embeddings", kind == "gpt2")),
            positions=get("n_positions") if kind == "gpt2" else 0,
            biases=kind in ("qwen2", "gpt2") or bool(getattr(config, "attention_bias", False)),
            further=get("num_mtp_layers"),
        )

    @cached_property
    def attention(self) -> Block:
        """With the two norms of a layer."""
        queries, values = self.heads * self.head_size, self.heads * self.value_size
        narrow = 4 * self.hidden
        if not self.latent_rank:
            keys = self.key_value_heads * self.head_size
            biases = (queries + 2 * keys) if self.biases else 0
            shared = self.hidden * (2 * queries + 2 * keys) + biases
            wide = 3 * queries + 4 * keys
            norms = 5 * self.hidden if self.positions else 2 * self.hidden  # with their biases, and the output's
            return Block(norms, shared, wide, narrow, 2 * queries + 2 * keys + self.hidden)
        up = self.latent_rank * self.heads * (self.head_size - self.rotary + self.value_size)
        whole = self.hidden * (self.latent_rank + self.rotary) + self.latent_rank + 2 * self.hidden
        shared = up + values * self.hidden
        if self.query_rank:
            whole += self.hidden * self.query_rank + self.query_rank
            shared += self.query_rank * queries
        else:
            shared += self.hidden * queries
        latent = self.query_rank + self.latent_rank + self.rotary
        expanded = self.heads * (self.head_size - self.rotary + self.value_size)
        wide = 3 * queries + expanded + 2 * values
        return Block(whole, shared, wide, narrow + 3 * latent, latent + queries + expanded + values + self.hidden)

    @cached_property
    def dense(self) -> Block:
        """A dense feed-forward."""
        width = self.feed_forward
        if self.positions:
            return Block(self.hidden, (2 * self.hidden + 1) * width, 2 * width, 2 * self.hidden, width + self.hidden)
        return Block(0, 3 * self.hidden * width, 4 * width, 2 * self.hidden, 2 * width + self.hidden)

    @cached_property
    def mixture(self) -> Block:
        """Router and shared experts, and what the routed ones keep for each token; their parameters are `routed`."""
        shared, routes = self.shared_experts * self.expert_width, self.experts_per_token
        rows = routes * (3 * self.hidden + 4 * self.expert_width)
        kept = routes * (self.hidden + 2 * self.expert_width) + 2 * shared + self.hidden
        return Block(
            self.experts * self.hidden,
            3 * self.hidden * shared,
            4 * shared + rows,
            2 * self.hidden + 3 * self.experts,
            kept + self.experts,
        )

    @cached_property
    def module(self) -> Block:
        """What a module for a further token has beyond attention: the last layer's feed-forward, a projection of two vectors to
        one, and three norms; embedding and head are the model's own."""
        last, hidden = self.mixture if self.mixture_layers else self.dense, self.hidden
        return Block(
            last.whole + 2 * hidden**2 + 3 * hidden,
            last.shared,
            last.wide,
            last.narrow + 6 * hidden,
            last.products + hidden,
        )

    @property
    def routed(self) -> int:
        """Parameters of a layer's routed experts."""
        return 3 * self.experts * self.hidden * self.expert_width

    @property
    def mixture_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return (
            self.embedding * (1 if self.tied else 2)
            + self.hidden * (2 + self.positions if self.positions else 1)
            + sum(
                count * (self.attention.whole + self.attention.shared + block.whole + block.shared + routed)
                for count, block, routed in self.kinds
            )
        )

    @property
    def kinds(self) -> list[tuple[int, Block, int]]:
        """The kinds of layers: how many, the feed-forward, and the parameters of its routed experts."""
        return self.kinds_of(self.dense_layers, self.mixture_layers, self.further)

    def kinds_of(self, dense: int, mixtures: int, further: int) -> list[tuple[int, Block, int]]:
        """The same of so many layers of each kind."""
        routed = self.routed if self.mixture_layers else 0
        kinds = [(dense, self.dense, 0), (mixtures, self.mixture, routed), (further, self.module, routed)]
        return [kind for kind in kinds if kind[0]]

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied with: not the embedding, and of the experts those it is sent to."""
        share = self.experts_per_token / self.experts if self.experts else 0
        inactive = round(sum(count * routed for count, _, routed in self.kinds) * (1 - share))
        return self.parameters - inactive - (0 if self.tied else self.embedding)

    def operations(self, length: int) -> int:
        """Floating-point operations of a token's forward and backward pass, in sequences of that length; causal attention."""
        attended = (self.layers + self.further) * self.heads * (self.head_size + self.value_size) * length
        return 6 * (self.active + self.further * self.embedding) + 3 * attended
