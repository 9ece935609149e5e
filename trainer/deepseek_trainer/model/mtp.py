"""Multi-token prediction: modules behind a DeepSeek-V3 model that predict the tokens after the next (arXiv:2412.19437, 2.2).

Module k joins what is known at a position with the token k further on, and predicts the one after that:
h_k = Block(M [norm(embedding of t+k); norm(h_k-1)]), with the main model's embedding and head. The modules lie behind the
last decoder layer, under the names of the published weights (model.layers.61 and so on), and are used in training only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad
from transformers.masking_utils import create_causal_mask
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3ForCausalLM,
    DeepseekV3RMSNorm,
)

from deepseek_trainer.data.samples import IGNORED, MicroBatch

SHARED = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
"""What published weights repeat in each module, and of what."""


class Predicted(NamedTuple):
    """Logits, shape (rows, width, vocab_size): of the next token, and of the ones after it by depth."""

    logits: torch.Tensor
    further: tuple[torch.Tensor, ...]


class MultiTokenLayer(DeepseekV3DecoderLayer):
    """One module: norms, projection and decoder block; its result is normed for the shared head."""

    def __init__(self, config: DeepseekV3Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = DeepseekV3RMSNorm(size, eps=eps)
        self.hnorm = DeepseekV3RMSNorm(size, eps=eps)
        self.eh_proj = torch.nn.Linear(2 * size, size, bias=False)
        self.shared_head = torch.nn.ModuleDict({"norm": DeepseekV3RMSNorm(size, eps=eps)})

    def forward(self, hidden_states: torch.Tensor, embeddings: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Both of shape (rows, width, hidden_size), as is what comes out."""
        joined = self.eh_proj(torch.cat([self.enorm(embeddings), self.hnorm(hidden_states)], dim=-1))
        out: torch.Tensor = self.shared_head["norm"](super().forward(joined, **kwargs))
        return out


class MultiTokenModel(DeepseekV3ForCausalLM):
    """A DeepSeek-V3 model with `config.num_mtp_layers` modules. Outside of training it is the model without them.

    Attributes:
        further: these modules.
    """

    _no_split_modules = ["DeepseekV3DecoderLayer", "MultiTokenLayer"]

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__(config)
        first = config.num_hidden_layers
        self.further = tuple(MultiTokenLayer(config, first + k) for k in range(config.num_mtp_layers))
        self.model.layers.extend(self.further)
        self.ahead = ahead

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers looks for it in the text of a class' module, which is this one

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predicted while training, else what the model answers without the modules.

        Args:
            inputs_embeds: what the decoder is given, where it isn't the tokens.
        """
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if not self.training:
            return super().forward(**given, position_ids=position_ids, **kwargs)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden = self.model(**given, position_ids=position_ids, use_cache=False).last_hidden_state
        logits, further = self.lm_head(hidden), []
        rest = {
            "position_embeddings": self.model.rotary_emb(hidden, position_ids),
            "attention_mask": create_causal_mask(
                config=self.config,
                inputs_embeds=hidden,
                attention_mask=None,
                past_key_values=None,
                position_ids=position_ids,
            ),
            "position_ids": position_ids,
        }
        for k, layer in enumerate(self.further, start=1):
            hidden = layer(hidden, self.model.embed_tokens(self.ahead(input_ids, k, 0)), **rest)
            further.append(self.lm_head(hidden))
        return Predicted(logits, tuple(further))


def ahead(tokens: torch.Tensor, k: int, filling: int) -> torch.Tensor:
    """What is k positions further on in the row; the filling where the row has ended. As `tokens`, (rows, width)."""
    return pad(tokens[:, k:], (0, min(k, tokens.shape[1])), value=filling)


def labels(batch: MicroBatch, k: int) -> torch.Tensor:
    """The token that module k predicts at each position, or IGNORED where that is another document's; (rows, width)."""
    wanted = ahead(batch.labels, k, IGNORED)
    if batch.positions is None:
        return wanted
    return torch.where(ahead(batch.positions, k, -1) == batch.positions + k, wanted, IGNORED)
