"""Train the image demo weights from nothing, on pictures that the script draws itself.

    OMP_WAIT_POLICY=passive python -m inference.demo.train_image --vae-minutes 9 --minutes 18

First a VAE (8x8 pixels become 8 numbers), then a tiny Flux by flow matching in its latents, together
with its two text encoders, and at last the decoder once more. The folder written is diffusers' own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from inference.demo.image_data import SIDE, UNKNOWN, Artist, vocabulary
from inference.demo.text_training import Float32Muon

OUT = Path(__file__).parent / "weights" / "image"
PAD, BEGIN, END = "[PAD]", "[BOS]", "[EOS]"
WORDS = 20  # of a prompt, with the marks at both ends
WIDTH, TEXT_WIDTH = 128, 64
CHANNELS = 8
NO_WORDS = 0.1  # of the captions are left away, so that guidance has something to lead away from


@dataclass(slots=True)
class Plan:
    """What a run is to do; minutes are of processor time, steps count instead where given."""

    vae_minutes: float = 9.0
    minutes: float = 18.0
    polish_minutes: float = 4.0
    vae_steps: int = 0
    steps: int = 0
    polish_steps: int = 0
    seed: int = 0
    rows: int = 64
    pool: int = 6_000
    fresh: int = 8


class Pace:
    """How far a run is, and the learning rate over it: up, level, and down to nothing."""

    def __init__(self, name: str, minutes: float, steps: int) -> None:
        self._name, self._minutes, self._limit = name, minutes, steps
        self._begun = time.process_time()
        self._recent: list[float] = []
        self.steps = 0
        self.progress = 0.0

    def __iter__(self) -> Iterator[float]:
        """Factors of the learning rate until the time is over."""
        while self.progress < 1:
            yield min(1.0, (self.steps + 1) / 100) * min(1.0, 2.5 * (1 - self.progress) + 0.01)

    def note(self, loss: float) -> None:
        """A step is done."""
        self.steps += 1
        self._recent = [*self._recent[-99:], loss]
        spent = time.process_time() - self._begun
        self.progress = self.steps / self._limit if self._limit else spent / (60 * self._minutes)
        if self.steps % 50 == 0 or self.steps == 1:
            mean = sum(self._recent) / len(self._recent)
            print(
                f"{self._name} step {self.steps} loss {mean:.5f} {spent / 60:.1f} min", flush=True
            )


def as_tensor(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """Pictures as the VAE takes them: -1 to 1."""
    arrays = np.stack([np.asarray(picture, np.float32) for picture in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


# -- the VAE --------------------------------------------------------------------------------------


def make_vae() -> AutoencoderKL:
    """With four channels or more in each group of its norms: one would wash flat colours out."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 48),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=SIDE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def train_vae(plan: Plan) -> AutoencoderKL:
    """On quarters of pictures first, on whole ones at the end."""
    torch.manual_seed(plan.seed)
    vae, artist = make_vae().train(), Artist(plan.seed)
    print(f"VAE: {sum(p.numel() for p in vae.parameters()):,} parameters")
    peak = 2e-3
    optimizer = torch.optim.AdamW(vae.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    pace = Pace("vae", plan.vae_minutes, plan.vae_steps)
    for factor in pace:
        whole = pace.progress > 0.6
        pictures = as_tensor(artist.sample()[0] for _ in range(6 if whole else 16))
        if not whole:
            left, top = (artist.chance.randrange(0, 33, 8) for _ in range(2))
            pictures = pictures[:, :, top : top + 32, left : left + 32]
        spread = vae.encode(pictures.contiguous(), return_dict=False)[0]
        latents = spread.sample()
        latents = latents + 0.05 * latents.detach().std() * torch.randn_like(latents)
        back = vae.decode(latents, return_dict=False)[0]
        error = back - pictures
        loss = error.square().mean() + 0.2 * error.abs().mean() + 1e-5 * spread.kl().mean() / 64
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = peak * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pace.note(error.detach().square().mean().item())
    vae.eval().requires_grad_(False)
    _scale(vae, artist)
    return vae


def polish(vae: AutoencoderKL, plan: Plan) -> None:
    """Train the decoder once more, on the latents that the transformer knows by now: the encoder
    stays as it is. Muon brings it further in the same time."""
    torch.manual_seed(plan.seed + 3)
    artist = Artist(plan.seed + 3)
    weights = list(vae.decoder.requires_grad_(True).train().parameters())
    hidden = [weight for weight in weights if weight.ndim == 4 and min(weight.shape[:2]) > 3]
    known = {id(weight) for weight in hidden}
    rest = [weight for weight in weights if id(weight) not in known]
    steering = [
        (Float32Muon(hidden, lr=0.005), 0.005),
        (torch.optim.AdamW(rest, lr=5e-4, betas=(0.9, 0.98), weight_decay=0.0), 5e-4),
    ]
    pace = Pace("polish", plan.polish_minutes, plan.polish_steps)
    for factor in pace:
        pictures = as_tensor(artist.sample()[0] for _ in range(8))
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        latents = latents + 0.05 * latents.std() * torch.randn_like(latents)
        error = vae.decode(latents).sample - pictures
        loss = error.square().mean() + 0.2 * error.abs().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer, peak in steering:
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        pace.note(error.detach().square().mean().item())
    vae.eval().requires_grad_(False)
    print(f"VAE: {quality(vae, artist):.1f} dB after polishing")


def quality(vae: AutoencoderKL, artist: Artist) -> float:
    """How near pictures come back, in dB."""
    pictures = as_tensor(artist.sample()[0] for _ in range(256))
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mean
        error = (vae.decode(latents).sample.clamp(-1, 1) - pictures).square().mean().item()
    return float(10 * np.log10(4 / error))


def _scale(vae: AutoencoderKL, artist: Artist) -> None:
    """Have the latents that the pipelines see begin with mean 0 and spread 1; tell the quality."""
    pictures = as_tensor(artist.sample()[0] for _ in range(256))
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mean
    vae.register_to_config(
        scaling_factor=round(1 / latents.std().item(), 4),
        shift_factor=round(latents.mean().item(), 4),
    )
    print(f"VAE: {quality(vae, artist):.1f} dB")


# -- the pipeline ---------------------------------------------------------------------------------


def make_tokenizer(known: Sequence[str], longest: int = WORDS) -> PreTrainedTokenizerFast:
    """A known word is a token; words that no caption has are one and the same."""
    words = [PAD, UNKNOWN, BEGIN, END, *known]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        special_tokens=[(mark, words.index(mark)) for mark in (BEGIN, END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        model_max_length=longest,
    )


def make_pipeline(vae: AutoencoderKL, seed: int) -> FluxPipeline:
    """Everything beside the VAE with random weights."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(vocabulary())
    marks = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "vocab_size": len(tokenizer),
    }
    clip = CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        **marks,
    )
    t5 = T5Config(
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=3 * TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        **marks,
    )
    transformer = FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=WIDTH // 32,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


class Pool:
    """Latents with their captions; a few are drawn anew each step."""

    def __init__(self, vae: AutoencoderKL, plan: Plan) -> None:
        self._vae, self._artist = vae, Artist(plan.seed + 1)
        self._generator = torch.Generator().manual_seed(plan.seed + 2)
        self._plan, self._at = plan, 0
        parts = [self._drawn(128) for _ in range(max(1, plan.pool // 128))]
        self._latents = torch.cat([part[0] for part in parts])
        self._captions = [caption for part in parts for caption in part[1]]

    def _drawn(self, count: int) -> tuple[torch.Tensor, list[str]]:
        samples = [self._artist.sample() for _ in range(count)]
        with torch.no_grad():
            latents = self._vae.encode(as_tensor(one[0] for one in samples)).latent_dist.mean
        config = self._vae.config
        latents = (latents - config.shift_factor) * config.scaling_factor
        side = latents.shape[-1]
        packed = FluxPipeline._pack_latents(latents, count, CHANNELS, side, side)
        return packed, [one[1] for one in samples]

    def batch(self) -> tuple[torch.Tensor, list[str]]:
        """Rows of one step."""
        latents, captions = self._drawn(self._plan.fresh)
        for latent, caption in zip(latents, captions, strict=True):
            self._latents[self._at], self._captions[self._at] = latent, caption
            self._at = (self._at + 1) % len(self._captions)
        chosen = torch.randint(len(self._captions), (self._plan.rows,), generator=self._generator)
        words = [
            "" if self._artist.chance.random() < NO_WORDS else self._captions[index]
            for index in chosen.tolist()
        ]
        return self._latents[chosen], words


def noise_levels(count: int) -> torch.Tensor:
    """Mostly high ones: there the words decide what it becomes, further down the picture itself."""
    high = (torch.randn(count) + 0.8).sigmoid()
    return torch.where(torch.rand(count) < 0.3, torch.rand(count), high)


def loss_of(pipeline: FluxPipeline, latents: torch.Tensor, words: list[str]) -> torch.Tensor:
    """Flow matching: from the mixture of picture and noise, the way from the one to the other."""
    embeds, pooled, text_ids = pipeline.encode_prompt(words, None, max_sequence_length=WORDS)
    side = SIDE // 16
    image_ids = pipeline._prepare_latent_image_ids(1, side, side, latents.device, latents.dtype)
    level = noise_levels(len(words))
    noise = torch.randn_like(latents)
    mixed = latents + level[:, None, None] * (noise - latents)
    way = pipeline.transformer(
        hidden_states=mixed,
        timestep=level,
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=text_ids,
        img_ids=image_ids,
        return_dict=False,
    )[0]
    return functional.mse_loss(way, noise - latents)


def optimizers(learned: list[torch.nn.Module]) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon drives the hidden matrices, AdamW the rest; each with its peak rate."""
    hidden, rest = [], []
    for module in learned:
        for name, weight in module.named_parameters():
            is_hidden = weight.ndim == 2 and "block" in name and "norm" not in name
            (hidden if is_hidden else rest).append(weight)
    return [
        (Float32Muon(hidden, lr=0.01), 0.01),
        (torch.optim.AdamW(rest, lr=0.002, betas=(0.9, 0.98), weight_decay=0.0), 0.002),
    ]


def train(plan: Plan, vae: AutoencoderKL, begun: FluxPipeline | None = None) -> FluxPipeline:
    """Transformer and text encoders together, from nothing or from where an earlier run came to;
    what is kept is the running mean of the weights."""
    pipeline = begun or make_pipeline(vae, plan.seed)
    learned = [pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2]
    weights = [weight for module in learned for weight in module.parameters()]
    print(f"Flux: {sum(weight.numel() for weight in weights):,} parameters")
    for module in learned:
        module.train()
    means = [weight.detach().clone() for weight in weights]
    pool, steering = Pool(vae, plan), optimizers(learned)
    pace = Pace("flux", plan.minutes, plan.steps)
    for factor in pace:
        loss = loss_of(pipeline, *pool.batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer, peak in steering:
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        share = min(0.995, (pace.steps + 1) / (pace.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(means, weights, 1 - share)
        pace.note(loss.item())
    with torch.no_grad():
        for weight, mean in zip(weights, means, strict=True):
            weight.copy_(mean)
    for module in learned:
        module.eval()
    return pipeline


def save(pipeline: FluxPipeline, out: Path) -> None:
    """Write all in bfloat16; what is in memory stays as it is."""
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: deepcopy(part) for name, part in pipeline.components.items() if part is not None}
    FluxPipeline(**parts).to(torch.bfloat16).save_pretrained(out, safe_serialization=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae-minutes", type=float, default=9.0, help="processor time")
    parser.add_argument("--minutes", type=float, default=18.0, help="processor time")
    parser.add_argument("--polish-minutes", type=float, default=4.0, help="processor time")
    parser.add_argument("--vae-steps", type=int, default=0, help="steps instead of minutes")
    parser.add_argument("--steps", type=int, default=0, help="steps instead of minutes")
    parser.add_argument("--polish-steps", type=int, default=0, help="steps instead of minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae", type=Path, help="take this folder's VAE instead of training one")
    parser.add_argument("--rows", type=int, default=64, help="captions in a step")
    parser.add_argument("--resume", type=Path, help="go on with this folder's weights")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = [name for name in Plan.__dataclass_fields__ if hasattr(given, name)]
    plan = Plan(**{name: getattr(given, name) for name in names})
    if given.vae is None:
        vae = train_vae(plan)
        vae.save_pretrained(given.out / "vae")
    else:
        vae = AutoencoderKL.from_pretrained(given.vae).eval().requires_grad_(False)
    begun = None
    if given.resume is not None:
        begun = FluxPipeline.from_pretrained(given.resume, vae=vae, dtype=torch.float32)
    pipeline = train(plan, vae, begun)
    polish(vae, plan)
    save(pipeline, given.out)


if __name__ == "__main__":
    main()
