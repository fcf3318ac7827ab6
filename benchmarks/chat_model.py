"""The chat benchmark's model folder: random weights of a Qwen3 shape (about 100M parameters).

Nothing in it ends an answer (no eos anywhere), so every answer is as long as `max_tokens` says,
on every server. The tokenizer is a byte-level BPE whose tokens are nearly all short ASCII words.
"""

from __future__ import annotations

import itertools
import random
import string
from pathlib import Path
from typing import Any

VOCABULARY = 32000
PAD = "<|pad|>"
TURN = "<|turn|>"
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
DONE = "complete"
WORDS = ["".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=3)]


def make_folder(folder: Path) -> Path:
    """The folder; made if it is not there yet."""
    if (folder / DONE).exists():
        return folder
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
        dtype=torch.bfloat16,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    (folder / DONE).touch()
    return folder


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    space = "\u0120"  # how byte-level tokenizers write a space
    letters = string.ascii_lowercase
    pairs = [(a, b) for a in (*letters, space) for b in letters]
    triples = [(a + b, c) for a, b in pairs for c in letters]
    words = [(space + a + b, c) for a in letters for b in letters for c in letters]
    tokens = [PAD, TURN, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [*pairs, *triples, *words][: VOCABULARY - len(tokens)]
    merges = list(dict.fromkeys(merges))
    tokens += [left + right for left, right in merges]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(PAD, special=True), AddedToken(TURN, special=True)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, additional_special_tokens=[TURN]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def text(rng: random.Random, words: int) -> str:
    """Random words; each is one or two tokens."""
    return " ".join(rng.choices(WORDS, k=words))


Work = list[tuple[list[dict[str, str]], int]]


def workload(count: int, seed: int) -> Work:
    """Messages of about 32-256 tokens, and how many tokens the answer shall have (32-128)."""
    rng = random.Random(seed)
    return [
        ([{"role": "user", "content": text(rng, rng.randint(12, 124))}], rng.randint(32, 128))
        for _ in range(count)
    ]


def prefixed(count: int, seed: int, *, shared: bool) -> Work:
    """A system prompt of 200 words, the same for all or one for each, and a short question."""
    rng = random.Random(seed)
    system = text(rng, 200)
    return [
        (
            [
                {"role": "system", "content": system if shared else text(rng, 200)},
                {"role": "user", "content": text(rng, 12)},
            ],
            16,
        )
        for _ in range(count)
    ]
