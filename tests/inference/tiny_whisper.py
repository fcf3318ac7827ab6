"""A tiny random-weight Whisper of large-v3's shape, saved as a folder the Runner loads."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

SPECIAL = [
    "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip
SECONDS, MELS, LONGEST = 30, 128, 128


def save_whisper(folder: Path, *, seconds: int = SECONDS) -> Path:
    """As openai/whisper-large-v3 is laid out, with two layers of 32."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizer(vocab={one: n for n, one in enumerate(letters)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    times = [f"<|{tick * 0.02:.2f}|>" for tick in range(seconds * 50 + 1)]
    tokenizer.add_tokens([AddedToken(time, normalized=False, special=False) for time in times])
    ids = tokenizer.get_vocab()
    end = ids["<|endoftext|>"]
    shared = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end,
              "decoder_start_token_id": ids["<|startoftranscript|>"]}  # fmt: skip
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=MELS, d_model=32,
        encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64,
        max_source_positions=seconds * 50, max_target_positions=LONGEST,
        init_std=0.4, **shared,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **shared,
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in ("<|en|>", "<|zh|>", "<|de|>")},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        begin_suppress_tokens=[end],
        max_length=LONGEST,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MELS, chunk_length=seconds).save_pretrained(folder)
    return folder
