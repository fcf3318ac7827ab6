"""Train the transcription demo weights from nothing, on speech that the script makes itself.

    OMP_WAIT_POLICY=passive python -m inference.demo.train_transcription --minutes 25 --threads 1

A small Whisper for windows of six seconds: English and German transcribed, German translated into
English, with time stamps or without. A second head on the encoder (CTC), which is not kept, has it
listen from the beginning: without that the decoder only learns which sentences there are. Clips are
computed together with others of their length, cropped to it; near the end mostly in whole windows.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from inference.demo.text_training import Course, Plan
from inference.demo.transcription_data import ENGLISH, GERMAN, Sentences
from inference.demo.transcription_sound import SAMPLE_RATE, WINDOW_SECONDS, Clip, Clips, Speaker

OUT = Path(__file__).parent / "weights" / "transcription"
PIECES = 600  # of words
END, START = "<|endoftext|>", "<|startoftranscript|>"
TRANSLATE, TRANSCRIBE, BEFORE = "<|translate|>", "<|transcribe|>", "<|startofprev|>"
NO_SPEECH, NO_TIMES = "<|nospeech|>", "<|notimestamps|>"
SPECIAL = (
    START, "<|en|>", "<|de|>", TRANSLATE, TRANSCRIBE, "<|startoflm|>", BEFORE, NO_SPEECH, NO_TIMES
)  # fmt: skip
TICK = 0.02
TICKS = round(WINDOW_SECONDS / TICK)
FRAMES = 2 * TICKS
LONGEST_TEXT = 128
IGNORED = -100
POOL, FRESH, LOOKED_AT = 3_000, 4, 8
ROWS = 24
CTC_WEIGHT = 0.3


def make_tokenizer(seed: int) -> WhisperTokenizer:
    """Whisper's kind of tokenizer: pieces of bytes, then marks and times."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    source = Sentences(seed + 1)
    drawn = [source.any() for _ in range(20_000)]
    core.train_from_iterator((" " + text for one in drawn for text in {one.text, one.english}), trainer)  # fmt: skip
    model = json.loads(core.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = WhisperTokenizer(vocab=model["vocab"], merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    times = [f"<|{tick * TICK:.2f}|>" for tick in range(TICKS + 1)]
    tokenizer.add_tokens([AddedToken(time, normalized=False, special=False) for time in times])
    return tokenizer


def make_processor(seed: int) -> WhisperProcessor:
    """Sound in, text out."""
    extractor = WhisperFeatureExtractor(
        feature_size=80, sampling_rate=SAMPLE_RATE, chunk_length=int(WINDOW_SECONDS)
    )
    return WhisperProcessor(extractor, make_tokenizer(seed))


def make_model(tokenizer: WhisperTokenizer, width: int = 128) -> WhisperForConditionalGeneration:
    """The smallest Whisper that does it."""
    ids = dict(zip((END, *SPECIAL), tokenizer.convert_tokens_to_ids([END, *SPECIAL]), strict=True))
    shared = {
        "pad_token_id": ids[END],
        "bos_token_id": ids[END],
        "eos_token_id": ids[END],
        "decoder_start_token_id": ids[START],
    }
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=width,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=4 * width,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=4 * width,
        max_source_positions=FRAMES // 2,
        max_target_positions=LONGEST_TEXT,
        dropout=0.0,
        **shared,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **shared,
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]},
        task_to_id={"transcribe": ids[TRANSCRIBE], "translate": ids[TRANSLATE]},
        no_timestamps_token_id=ids[NO_TIMES],
        prev_sot_token_id=ids[BEFORE],
        max_initial_timestamp_index=round(1 / TICK),
        alignment_heads=[[1, head] for head in range(4)],
        begin_suppress_tokens=[ids[END]],
        suppress_tokens=[],
        max_length=LONGEST_TEXT,
        return_timestamps=False,
    )
    return model


@dataclass(slots=True)
class Heard:
    """A clip as the model hears it: mel frames as far as there is sound, and what follows.

    Its samples are not kept.
    """

    clip: Clip
    mel: torch.Tensor
    silence: float


class Studio:
    """Makes clips and keeps the latest ones: each is learned from several times."""

    def __init__(self, processor: WhisperProcessor, seed: int, pool: int) -> None:
        """Fills the pool."""
        sentences = Sentences(seed)
        self.draw = random.Random(seed + 2)
        self._clips = Clips(sentences, Speaker(sentences.draw))
        self._extract = processor.feature_extractor
        self._pool = [self._next() for _ in range(pool)]

    def batch(self, rows: int, fresh: int) -> list[Heard]:
        """So many clips of about the same length."""
        for _ in range(fresh):
            self._pool.append(self._next())
        drawn = self.draw.sample(self._pool, rows * LOOKED_AT)
        drawn.sort(key=lambda heard: heard.mel.shape[1])
        at = self.draw.randrange(len(drawn) - rows + 1)
        return drawn[at : at + rows]

    def _next(self) -> Heard:
        clip = self._clips.clip()
        mel = features(self._extract, [clip.samples])[0]
        frames = min(FRAMES, len(clip.samples) // 160 + 2)
        bare = replace(clip, samples=clip.samples[:0].copy())
        return Heard(bare, mel[:, :frames].half().clone(), float(mel[:, -1].mean()))


def features(extract: WhisperFeatureExtractor, sounds: list[np.ndarray]) -> torch.Tensor:
    """Log mel spectra of whole windows."""
    return extract(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features


def heard(batch: list[Heard], width: int, draw: random.Random) -> torch.Tensor:
    """Spectra of equal width, in half of the batches with holes in time and pitch."""
    rows = torch.stack(
        [
            functional.pad(one.mel.float(), (0, width - one.mel.shape[1]), value=one.silence)
            for one in batch
        ]
    )
    if draw.random() < 0.5:
        for row in rows:
            low, begin = draw.randrange(72), draw.randrange(max(1, width - 12))
            row[low : low + draw.randrange(9)] = row.mean()
            row[:, begin : begin + draw.randrange(13)] = row.mean()
    return rows


def encode(model: WhisperForConditionalGeneration, spectra: torch.Tensor) -> torch.Tensor:
    """What WhisperEncoder does, of windows of any length."""
    encoder = model.model.encoder
    states = functional.gelu(encoder.conv1(spectra))
    states = functional.gelu(encoder.conv2(states)).permute(0, 2, 1)
    states = states + encoder.embed_positions.weight[: states.shape[1]]
    for layer in encoder.layers:
        states = layer(states, None)
    return encoder.layer_norm(states)


class Scribe:
    """What is to be written for a clip."""

    def __init__(self, tokenizer: WhisperTokenizer, draw: random.Random) -> None:
        self._tokenizer = tokenizer
        self._draw = draw
        self._ids = tokenizer.get_vocab()
        self._first_time = self._ids["<|0.00|>"]

    def pieces(self, text: str) -> list[int]:
        """Tokens of a text, as it stands after a mark."""
        return self._tokenizer(" " + text, add_special_tokens=False).input_ids

    def spoken(self, clip: Clip) -> list[int]:
        """Tokens of the words as they were said."""
        return [piece for part in clip.parts for piece in self.pieces(part.sentence.text)]

    def lesson(self, clip: Clip, before: str | None) -> tuple[list[int], list[int]]:
        """Tokens that the decoder sees, and what it is to say after each."""
        ids = self._ids
        if not clip.parts:
            return [ids[START]], [ids[NO_SPEECH]]
        language = clip.language
        translates = self._draw.random() < {ENGLISH: 0.1, GERMAN: 0.5}[language]
        marks = [ids[START], ids[f"<|{language}|>"], ids[TRANSLATE if translates else TRANSCRIBE]]
        said = [ids[f"<|{language}|>"], IGNORED]
        has_times = self._draw.random() < 0.6
        if not has_times:
            marks.append(ids[NO_TIMES])
            said.append(IGNORED)
        words: list[int] = []
        for part in clip.parts:
            text = part.sentence.english if translates else part.sentence.text
            pieces = self.pieces(text)
            if has_times:
                pieces = [self._time(part.start), *pieces, self._time(part.end)]
            words += pieces
        if before is not None:
            memory = [ids[BEFORE], *self.pieces(before)]
            marks, said = [*memory, *marks], [IGNORED] * len(memory) + said
        return [*marks, *words], [*said, *words, ids[END]]

    def _time(self, seconds: float) -> int:
        return self._first_time + min(TICKS, round(seconds / TICK))


def losses(
    model: WhisperForConditionalGeneration,
    ears: nn.Linear,
    scribe: Scribe,
    batch: list[Heard],
    spectra: torch.Tensor,
    befores: list[str | None],
) -> torch.Tensor:
    """Of the decoder, and of the head that listens."""
    states = encode(model, spectra)
    lessons = [scribe.lesson(one.clip, before) for one, before in zip(batch, befores, strict=True)]
    width = max(len(seen) for seen, _ in lessons)
    end = model.config.eos_token_id
    seen = torch.tensor([row + [end] * (width - len(row)) for row, _ in lessons])
    said = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in lessons])
    hidden = model.model.decoder(input_ids=seen, encoder_hidden_states=states, use_cache=False)
    logits = model.proj_out(hidden.last_hidden_state)
    written = functional.cross_entropy(
        logits.flatten(0, 1), said.flatten(), ignore_index=IGNORED, label_smoothing=0.02
    )
    spoken = [scribe.spoken(one.clip) for one in batch]
    listened = functional.ctc_loss(
        functional.log_softmax(ears(states), -1).transpose(0, 1),
        torch.tensor([piece for row in spoken for piece in row]),
        torch.full((len(batch),), states.shape[1]),
        torch.tensor([len(row) for row in spoken]),
        blank=PIECES,
        zero_infinity=True,
    )
    return written + CTC_WEIGHT * listened


def width_of(batch: list[Heard], progress: float, draw: random.Random) -> int:
    """Frames that a step sees: hardly more than the speech, later often the whole window."""
    longest = max(one.mel.shape[1] for one in batch)
    if draw.random() < (0.05 if progress < 0.8 else 0.6):
        return FRAMES
    return min(FRAMES, 2 * ((longest + draw.randrange(40) + 1) // 2))


def train(
    plan: Plan, begun: Path | None = None
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor, list[float]]:
    """Train by the plan, from nothing or from a folder's weights; model, processor, losses."""
    torch.manual_seed(plan.seed)
    if begun is None:
        processor = make_processor(plan.seed)
        model = make_model(processor.tokenizer, plan.width)
    else:
        processor = WhisperProcessor.from_pretrained(begun)
        model = WhisperForConditionalGeneration.from_pretrained(begun, dtype=torch.float32)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {len(processor.tokenizer)} tokens", flush=True)
    model.ears = nn.Linear(model.config.d_model, PIECES + 1)
    course = Course(model, plan, is_hidden=lambda name: ".layers." in name)
    studio = Studio(processor, plan.seed, max(plan.corpus, LOOKED_AT * plan.rows))
    scribe = Scribe(processor.tokenizer, studio.draw)
    memories = Sentences(plan.seed + 3)
    model.train()
    for _ in course:
        batch = studio.batch(plan.rows, FRESH)
        spectra = heard(batch, width_of(batch, course.progress, studio.draw), studio.draw)
        befores = [memories.any().text if studio.draw.random() < 0.1 else None for _ in batch]
        course.step(losses(model, model.ears, scribe, batch, spectra, befores))
    del model.ears
    return model.eval(), processor, course.losses


def save(model: WhisperForConditionalGeneration, processor: WhisperProcessor, out: Path) -> None:
    """Write the weights in bfloat16, with all that Whisper's classes want beside them."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=25.0, help="processor time to train for")
    parser.add_argument("--steps", type=int, default=0, help="train by steps instead of minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="go on with this folder's weights")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan(minutes=given.minutes, steps=given.steps, seed=given.seed, rows=ROWS, corpus=POOL)
    model, processor, _ = train(plan, given.resume)
    save(model, processor, given.out)


if __name__ == "__main__":
    main()
