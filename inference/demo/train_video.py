"""Train the video demo weights from nothing, on films that the script draws itself.

    OMP_WAIT_POLICY=passive python -m inference.demo.train_video --vae-minutes 9 --minutes 16

First a VAE (8x8 pixels of four frames become 16 numbers), then a tiny Wan 2.2 by flow matching in its
latents, together with its text encoder, and at last the decoder once more. Half of the films it
learns with their first frame given, as in `WanImageToVideoPipeline` with `expand_timesteps`. The
folder written is diffusers' own; while the transformer learns it is written every few minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch.nn import functional
from transformers import UMT5Config, UMT5EncoderModel

from inference.demo.text_training import Float32Muon
from inference.demo.train_image import NO_WORDS, Pace, make_tokenizer, noise_levels
from inference.demo.video_data import Director, Film, clutter, vocabulary
from inference.runners.diffusers_parts import load_mixed

OUT = Path(__file__).parent / "weights" / "video"
WORDS = 24  # of a prompt, with the marks at both ends
WIDTH, LAYERS, INNER, TEXT_WIDTH = 128, 4, 384, 64
CHANNELS = 16
PATCH = 2
FIRST_FRAME = 0.4  # of the films are learned with their first frame given
CHECKPOINTS = 6


@dataclass(slots=True)
class Plan:
    """What a run is to do; minutes are of processor time, steps count instead where given."""

    vae_minutes: float = 9.0
    minutes: float = 16.0
    polish_minutes: float = 4.0
    vae_steps: int = 0
    steps: int = 0
    polish_steps: int = 0
    seed: int = 0
    rows: int = 64
    pool: int = 4_096
    fresh: int = 2


def as_tensor(films: Iterable[Film]) -> torch.Tensor:
    """Films as the VAE takes them: colours, frames, rows, columns, from -1 to 1."""
    arrays = np.stack([np.stack([np.asarray(one, np.float32) for one in film]) for film in films])
    return torch.from_numpy(arrays).permute(0, 4, 1, 2, 3).contiguous() / 127.5 - 1


# -- the VAE --------------------------------------------------------------------------------------


def make_vae() -> AutoencoderKLWan:
    """Of Wan 2.2's kind: pixels are folded before the first layer."""
    return AutoencoderKLWan(
        base_dim=32,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def steering(
    weights: Iterable[torch.Tensor], muon: float, adam: float
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon drives the convolutions, AdamW the rest; each with its peak rate."""
    weights = list(weights)
    hidden = [weight for weight in weights if weight.ndim >= 4 and min(weight.shape[:2]) > 3]
    known = {id(weight) for weight in hidden}
    rest = [weight for weight in weights if id(weight) not in known]
    return [
        (Float32Muon(hidden, lr=muon), muon),
        (torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0), adam),
    ]


def step(
    loss: torch.Tensor,
    weights: list[torch.Tensor],
    optimizers: list[tuple[torch.optim.Optimizer, float]],
    factor: float,
) -> None:
    """Learn from this loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    for optimizer, peak in optimizers:
        optimizer.param_groups[0]["lr"] = peak * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def watched(director: Director, rows: int) -> torch.Tensor:
    """Films for the VAE: a few of them still pictures of anything."""
    chance = director.chance
    return as_tensor(
        clutter(chance) if chance.random() < 0.1 else director.sample()[0] for _ in range(rows)
    )


def train_vae(plan: Plan) -> AutoencoderKLWan:
    """On small batches; its latents are to bear a little noise."""
    torch.manual_seed(plan.seed)
    vae, director = make_vae().train(), Director(plan.seed)
    weights = list(vae.parameters())
    print(f"VAE: {sum(weight.numel() for weight in weights):,} parameters")
    optimizers = steering(weights, muon=0.01, adam=2e-3)
    pace = Pace("vae", plan.vae_minutes, plan.vae_steps)
    for factor in pace:
        films = watched(director, 4)
        spread = vae.encode(films).latent_dist
        latents = spread.sample()
        latents = latents + 0.05 * latents.detach().std() * torch.randn_like(latents)
        error = vae.decode(latents).sample - films
        loss = error.square().mean() + 0.2 * error.abs().mean() + 1e-5 * spread.kl().mean() / 64
        step(loss, weights, optimizers, factor)
        pace.note(error.detach().square().mean().item())
    vae.eval().requires_grad_(False)
    _scale(vae, director)
    return vae


def polish(vae: AutoencoderKLWan, plan: Plan) -> None:
    """Train the decoder once more, on the latents that the transformer knows by now: the encoder
    stays as it is."""
    torch.manual_seed(plan.seed + 3)
    director = Director(plan.seed + 3)
    vae.train()
    weights = list(vae.decoder.requires_grad_(True).parameters())
    optimizers = steering(weights, muon=0.005, adam=5e-4)
    pace = Pace("polish", plan.polish_minutes, plan.polish_steps)
    for factor in pace:
        films = watched(director, 4)
        with torch.no_grad():
            latents = vae.encode(films).latent_dist.mean
        latents = latents + 0.05 * latents.std() * torch.randn_like(latents)
        error = vae.decode(latents).sample - films
        step(error.square().mean() + 0.2 * error.abs().mean(), weights, optimizers, factor)
        pace.note(error.detach().square().mean().item())
    vae.eval().requires_grad_(False)
    print(f"VAE: {quality(vae, director):.1f} dB after polishing", flush=True)


def quality(vae: AutoencoderKLWan, director: Director) -> float:
    """How near films come back, in dB."""
    films = as_tensor(director.sample()[0] for _ in range(64))
    with torch.no_grad():
        back = vae.decode(vae.encode(films).latent_dist.mean).sample
    return float(10 * np.log10(4 / (back - films).square().mean().item()))


def _scale(vae: AutoencoderKLWan, director: Director) -> None:
    """Have the latents that the pipelines see begin with mean 0 and spread 1; tell the quality."""
    films = as_tensor(director.sample()[0] for _ in range(128))
    with torch.no_grad():
        latents = vae.encode(films).latent_dist.mean
    means, spreads = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(value, 4) for value in means.tolist()],
        latents_std=[round(value, 4) for value in spreads.tolist()],
    )
    print(f"VAE: {quality(vae, director):.1f} dB", flush=True)


# -- the pipeline ---------------------------------------------------------------------------------


def make_pipeline(vae: AutoencoderKLWan, seed: int) -> WanPipeline:
    """Everything beside the VAE with random weights."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(vocabulary(), WORDS)
    text = UMT5Config(
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=3 * TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=len(tokenizer),
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, PATCH, PATCH),
        num_attention_heads=WIDTH // 32,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=INNER,
        num_layers=LAYERS,
        rope_max_seq_len=64,
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=transformer,
        expand_timesteps=True,
    )


def encoded(vae: AutoencoderKLWan, films: torch.Tensor) -> torch.Tensor:
    """Latents as the transformer sees them."""
    with torch.no_grad():
        latents = vae.encode(films).latent_dist.mean
    mean, spread = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / spread


class Pool:
    """Latents with their captions; a few are drawn anew each step."""

    def __init__(self, vae: AutoencoderKLWan, plan: Plan) -> None:
        self._vae, self._director = vae, Director(plan.seed + 1)
        self._generator = torch.Generator().manual_seed(plan.seed + 2)
        self._plan, self._at = plan, 0
        parts = [self._drawn(64) for _ in range(max(1, plan.pool // 64))]
        self._latents = torch.cat([part[0] for part in parts])
        self._captions = [caption for part in parts for caption in part[1]]

    def _drawn(self, count: int) -> tuple[torch.Tensor, list[str]]:
        samples = [self._director.sample() for _ in range(count)]
        return encoded(self._vae, as_tensor(one[0] for one in samples)), [one[1] for one in samples]

    def batch(self) -> tuple[torch.Tensor, list[str]]:
        """Rows of one step."""
        latents, captions = self._drawn(self._plan.fresh)
        for latent, caption in zip(latents, captions, strict=True):
            self._latents[self._at], self._captions[self._at] = latent, caption
            self._at = (self._at + 1) % len(self._captions)
        chosen = torch.randint(len(self._captions), (self._plan.rows,), generator=self._generator)
        words = [
            "" if self._director.chance.random() < NO_WORDS else self._captions[index]
            for index in chosen.tolist()
        ]
        return self._latents[chosen], words


def loss_of(pipeline: WanPipeline, latents: torch.Tensor, words: list[str]) -> torch.Tensor:
    """Flow matching: from the mixture of film and noise, the way from the one to the other. Where
    the first frame is given, it stays as it is, its tokens are at level 0 and do not count."""
    rows, _, frames, high, wide = latents.shape
    embeds = pipeline._get_t5_prompt_embeds(words, max_sequence_length=WORDS)
    level = noise_levels(rows)[:, None].repeat(1, frames)
    is_given = torch.rand(rows) < FIRST_FRAME
    level[is_given, 0] = 0.0
    noise = torch.randn_like(latents)
    mixed = latents + level[:, None, :, None, None] * (noise - latents)
    places = (high // PATCH) * (wide // PATCH)
    way = pipeline.transformer(
        hidden_states=mixed,
        timestep=1000 * level.repeat_interleave(places, dim=1),
        encoder_hidden_states=embeds,
        return_dict=False,
    )[0]
    error = functional.mse_loss(way, noise - latents, reduction="none")
    counts = torch.ones(rows, 1, frames, 1, 1)
    counts[is_given, :, 0] = 0.0
    return (error * counts).sum() / counts.expand_as(error).sum()


def optimizers_of(learned: list[torch.nn.Module]) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon drives the hidden matrices, AdamW the rest; each with its peak rate."""
    hidden, rest = [], []
    for module in learned:
        for name, weight in module.named_parameters():
            is_hidden = weight.ndim == 2 and "block" in name and "bias" not in name
            (hidden if is_hidden else rest).append(weight)
    return [
        (Float32Muon(hidden, lr=0.01), 0.01),
        (torch.optim.AdamW(rest, lr=0.002, betas=(0.9, 0.98), weight_decay=0.0), 0.002),
    ]


def train(
    plan: Plan, vae: AutoencoderKLWan, out: Path, begun: WanPipeline | None = None
) -> WanPipeline:
    """Transformer and text encoder together, from nothing or from where an earlier run came to;
    what is kept is the running mean of the weights."""
    pipeline = begun or make_pipeline(vae, plan.seed)
    learned = [pipeline.transformer, pipeline.text_encoder]
    weights = [weight for module in learned for weight in module.parameters()]
    print(f"Wan: {sum(weight.numel() for weight in weights):,} parameters")
    for module in learned:
        module.train()
    means = [weight.detach().clone() for weight in weights]
    pool, optimizers = Pool(vae, plan), optimizers_of(learned)
    pace, written = Pace("wan", plan.minutes, plan.steps), 0
    for factor in pace:
        loss = loss_of(pipeline, *pool.batch())
        step(loss, weights, optimizers, factor)
        share = min(0.995, (pace.steps + 1) / (pace.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(means, weights, 1 - share)
        pace.note(loss.item())
        if pace.progress >= (written + 1) / CHECKPOINTS:
            written += 1
            _save_means(pipeline, weights, means, out)
    with torch.no_grad():
        for weight, mean in zip(weights, means, strict=True):
            weight.copy_(mean)
    for module in learned:
        module.eval().requires_grad_(False)
    return pipeline


def _save_means(
    pipeline: WanPipeline, weights: list[torch.Tensor], means: list[torch.Tensor], out: Path
) -> None:
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, mean in zip(weights, means, strict=True):
            weight.copy_(mean)
        save(pipeline, out)
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)


def save(pipeline: WanPipeline, out: Path) -> None:
    """Write all in bfloat16; what is in memory stays as it is."""
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: deepcopy(part) for name, part in pipeline.components.items() if part is not None}
    parts = {name: part.cpu() if hasattr(part, "cpu") else part for name, part in parts.items()}
    whole = WanPipeline(**parts, expand_timesteps=True).to(torch.bfloat16)
    whole.save_pretrained(out, safe_serialization=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae-minutes", type=float, default=9.0, help="processor time")
    parser.add_argument("--minutes", type=float, default=16.0, help="processor time")
    parser.add_argument("--polish-minutes", type=float, default=4.0, help="processor time")
    parser.add_argument("--vae-steps", type=int, default=0, help="steps instead of minutes")
    parser.add_argument("--steps", type=int, default=0, help="steps instead of minutes")
    parser.add_argument("--polish-steps", type=int, default=0, help="steps instead of minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae", type=Path, help="take this folder's VAE instead of training one")
    parser.add_argument("--rows", type=int, default=64, help="captions in a step")
    parser.add_argument("--pool", type=int, default=4_096, help="films at hand")
    parser.add_argument("--fresh", type=int, default=2, help="films drawn anew in each step")
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
        vae = load_mixed(AutoencoderKLWan, given.vae, torch.float32)
    begun = None
    if given.resume is not None:
        begun = make_pipeline(vae, plan.seed)
        begun.register_modules(
            transformer=load_mixed(
                WanTransformer3DModel, given.resume / "transformer", torch.float32
            ).requires_grad_(True),
            text_encoder=UMT5EncoderModel.from_pretrained(
                given.resume / "text_encoder", dtype=torch.float32
            ),
        )
    pipeline = train(plan, vae, given.out, begun)
    polish(vae, plan)
    save(pipeline, given.out)


if __name__ == "__main__":
    main()
