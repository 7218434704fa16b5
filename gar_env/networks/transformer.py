"""A small causal language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.errors import ConfigurationError

HEAD = 32
"""Features of a head, where the width is a multiple of it."""


class Transformer(nn.Module):
    """Embeddings of tokens and places, pre-norm blocks of causal attention and a rectified layer; no weights are tied.

    Args:
        input_shape: ``(T,)``, tokens in a sequence.
        num_outputs: Tokens of the vocabulary.
        width: Features; a multiple of 32, or one head has all.
        blocks: How many.

    Raises:
        ConfigurationError: If inputs are no tokens.

    Source:
        Vaswani et al. (2017); the order of normalisation is that of Radford et al. (2019).
    """

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, *, width: int, blocks: int) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigurationError(f"A transformer takes tokens [n, T], and inputs are {list(input_shape)}.")
        heads = width // HEAD if width % HEAD == 0 else 1
        self.tokens, self.places = nn.Embedding(num_outputs, width), nn.Embedding(input_shape[0], width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_outputs)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 ``[n, T]`` to logits ``[n, T, vocabulary]``."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places(places))))


class Block(nn.Module):
    """Attention, then a layer of four times the width.

    Args:
        width: Features.
        heads: Of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_of_attention, self.norm_of_layer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, T, width]`` to the same."""
        heads = self.queries_keys_values(self.norm_of_attention(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.norm_of_layer(x))))
