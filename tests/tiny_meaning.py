"""A tiny sentence-embedding model without layers, in which chosen words mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

MEANINGS = (
    ("park", "car", "garage", "vehicle"),
    ("leave", "holiday", "vacation", "days"),
    ("hotel", "lodging", "night", "room"),
    ("salary", "pay", "money", "wage"),
    ("gym", "sport", "fitness", "yoga"),
)


def tiny_meaning(folder: Path, seed: int = 0) -> Path:
    """Write the model into `folder` and return it. Words of one of MEANINGS have the same vector;
    all others nearly none."""
    words = ["[PAD]", "[UNK]", *(word for group in MEANINGS for word in group)]
    raw = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=128
    )
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=16,
        max_position_embeddings=300,
    )
    torch.manual_seed(seed)
    model = BertModel(config)
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
        # Without it, a word that has nearly no vector would be stretched to full length.
        model.embeddings.LayerNorm = torch.nn.LayerNorm(16, eps=1.0)
        weights = model.embeddings.word_embeddings.weight
        weights.normal_(0.0, 1e-3)
        for group, vector in zip(_ids(words), 4 * torch.eye(16)[seed:], strict=False):
            weights[group] = vector
    config.layer_norm_eps = 1.0
    model.save_pretrained(folder)
    return folder


def _ids(words: Sequence[str]) -> list[list[int]]:
    return [[words.index(word) for word in group] for group in MEANINGS]
