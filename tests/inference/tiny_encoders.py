"""Tiny random-weight encoders of real classes, saved as folders the Runners load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
CORPUS = ["the quick brown fox jumps over the lazy dog and the cat sat on the mat"] * 4
POSITIONS = 64
MODES = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")


def bert_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # BGE's file cuts and pads by itself; a Runner must see to both alone
    core.enable_truncation(16)
    core.enable_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def xlmr_tokenizer() -> PreTrainedTokenizerFast:
    letters = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters += [
        (letter, -3.0)
        for letter in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!0123456789"
    ]
    letters += [("▁the", -1.0), ("▁fox", -1.0), ("▁cat", -1.0)]
    core = Tokenizer(models.Unigram(letters, unk_id=3))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=512,
    )


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Random weights far enough apart that texts differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
    return model.eval()


def bert_folder(folder: Path, *, mode: str | None = "cls_token", **files: object) -> Path:
    """BGE's make: a BERT with pooling files; `mode` None leaves them out."""
    torch.manual_seed(3)
    tokenizer = bert_tokenizer()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **SIZES)
    spread(BertModel(config, add_pooling_layer=False)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if mode is not None:
        write_pooling(folder, mode)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def decoder_folder(folder: Path) -> Path:
    """Qwen3-Embedding's make: a decoder whose last token counts, with a prompt for queries."""
    torch.manual_seed(4)
    tokenizer = bert_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        num_key_value_heads=2,
        head_dim=8,
        **SIZES,
    )
    spread(Qwen3Model(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_pooling(folder, "lasttoken")
    prompts = {"prompts": {"query": "find the fox ", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def write_pooling(folder: Path, mode: str) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{name}": name == mode for name in MODES}
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags))


def xlmr_reranker_folder(folder: Path, labels: int = 1) -> Path:
    """bge-reranker-v2-m3's make."""
    torch.manual_seed(5)
    tokenizer = xlmr_tokenizer()
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        num_labels=labels,
        pad_token_id=1,
        **SIZES,
    )
    spread(XLMRobertaForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert_reranker_folder(folder: Path) -> Path:
    """The demo reranker's make, where the kinds of tokens matter."""
    torch.manual_seed(6)
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, num_labels=1, **SIZES
    )
    spread(BertForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
