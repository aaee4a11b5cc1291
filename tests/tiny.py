"""A tiny random base policy for tests: two layers, width 64, about 600 tokens, ChatML."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SENTENCES = [
    "Answer the employee's question from the passages, briefly.",
    "Answer the employee's question, briefly.",
    "How many days of annual leave do I have? You have 28 days of annual leave a year.",
    "Who signs my travel expenses? Your manager signs them within five working days.",
    "Where do I report a lost laptop? Call the service desk at once, then write to security.",
    "Can I work from another country? Yes, for up to 20 days, if people operations agrees.",
    "What is the limit for a hotel? 120 euros a night, breakfast included, in most cities.",
    "When does the office in Leeds open? It opens at 7:30 and closes at 19:00 on weekdays.",
    "The pension plan matches up to six percent of your salary after the probation period.",
    "Grüße aus Zürich: naïve café, 日本語 and emoji 🙂 are text like any other.",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained in memory; pad 0, start of turn 1, end of turn 2."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=START, eos_token=END, pad_token=PAD
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_base(folder: Path, seed: int = 0) -> Path:
    """Write a random base policy into `folder` and return it; the same seed, the same weights."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        # Wide enough that the next-token distribution is far from uniform.
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = LlamaForCausalLM(config)
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tireless_base(folder: Path) -> Path:
    """A base policy that never ends an answer by itself: the end of turn is as likely as an
    average token, and logits lie so far apart that those are not drawn."""
    tiny_base(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 10
    weights["lm_head.weight"][tiny_tokenizer().eos_token_id] = 0.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
