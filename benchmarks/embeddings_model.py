"""The embeddings benchmark's model folder and texts: random weights of MiniLM-L6's shape."""

from __future__ import annotations

import json
import random
from pathlib import Path

VOCABULARY = 30_522
DONE = "complete"
LONGEST = 512


def make_folder(folder: Path) -> Path:
    """The folder, as sentence-transformers saves one; made if it is not there yet."""
    if (folder / DONE).exists():
        return folder
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=LONGEST,
    )
    BertModel(config).save_pretrained(folder)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*marks, *(word(number) for number in range(VOCABULARY - len(marks)))]
    core = Tokenizer(models.WordPiece({name: i for i, name in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = BertTokenizerFast(tokenizer_object=core, model_max_length=LONGEST)
    tokenizer.save_pretrained(folder)
    # what other versions of transformers read
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": LONGEST})
    )
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("1_Pooling", "2_Normalize"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST}))
    (folder / DONE).touch()
    return folder


def word(number: int) -> str:
    """Four letters; each is one token."""
    letters = []
    for _ in range(4):
        number, rest = divmod(number, 26)
        letters.append(chr(97 + rest))
    return "".join(letters)


def text(draw: random.Random, least: int, most: int) -> str:
    """A text of so many tokens."""
    count = draw.randint(least, most)
    return " ".join(word(draw.randrange(VOCABULARY - 5)) for _ in range(count))


def workload(case: str, requests: int, seed: int) -> list[list[str]]:
    """Requests of one case: `single` short texts, `bulk` of 64 mixed ones, `long` single ones."""
    draw = random.Random(f"{case} {seed}")
    if case == "single":
        return [[text(draw, 5, 20)] for _ in range(requests)]
    if case == "bulk":
        return [[text(draw, *draw.choice(((5, 20), (20, 80), (80, 200)))) for _ in range(64)]
                for _ in range(requests)]  # fmt: skip
    return [[text(draw, 300, 500)] for _ in range(requests)]
