"""What the trainings of both text encoders share: the tokenizer, the optimizers, the pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import BertConfig, PreTrainedModel, PreTrainedTokenizerFast

from inference.demo.text_data import Drawer, pair

PAD, UNKNOWN, FIRST, BETWEEN, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
LONGEST = 512


@dataclass(slots=True)
class Plan:
    """What a training run is to do; `minutes` are of processor time."""

    minutes: float = 15.0
    steps: int = 0
    seed: int = 0
    rows: int = 96
    vocabulary: int = 5000
    width: int = 128
    layers: int = 3
    inner: int = 384
    corpus: int = 15000


def make_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer: lower case, pieces of words."""
    core = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = [PAD, UNKNOWN, FIRST, BETWEEN, MASK]
    letters = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=plan.vocabulary,
        special_tokens=special,
        initial_alphabet=letters,
        show_progress=False,
    )
    core.train_from_iterator(_corpus(plan), trainer)
    first, between = core.token_to_id(FIRST), core.token_to_id(BETWEEN)
    core.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {BETWEEN}",
        pair=f"{FIRST} $A {BETWEEN} $B:1 {BETWEEN}:1",
        special_tokens=[(FIRST, first), (BETWEEN, between)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=FIRST,
        sep_token=BETWEEN,
        mask_token=MASK,
        model_max_length=LONGEST,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _corpus(plan: Plan) -> Iterator[str]:
    source = Drawer(plan.seed + 1)
    for _ in range(plan.corpus):
        yield from pair(source)[:3]


def make_config(plan: Plan, tokenizer: PreTrainedTokenizerFast, **more: object) -> BertConfig:
    """A small BERT."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.width // 32,
        intermediate_size=plan.inner,
        max_position_embeddings=LONGEST,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """The nearest matrix with equal singular values, roughly (Newton and Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(rounds):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Float32Muon(torch.optim.Optimizer):
    """torch.optim.Muon computes in bfloat16, which many CPUs only imitate, very slowly."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        """Nesterov's momentum, made orthogonal."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 0.05)
                # Of a convolution, what a channel takes from everywhere is one row.
                flat = orthogonal(weight.grad.lerp(momentum, 0.95).flatten(1))
                update = flat.view_as(weight)
                scale = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * 0.01).add_(update, alpha=-group["lr"] * scale)


class Course:
    """The optimizers and the learning rate over one run: up, level, and down to nothing."""

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        is_hidden: Callable[[str], bool] = lambda name: "encoder" in name,
    ) -> None:
        """Muon drives the hidden matrices, which `is_hidden` knows by name, AdamW the rest."""
        hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and is_hidden(name)]
        known = {id(p) for p in hidden}
        rest = [p for p in model.parameters() if id(p) not in known]
        self._model = model
        self._plan = plan
        self._optimizers = (
            (Float32Muon(hidden, lr=0.01), 0.01),
            (torch.optim.AdamW(rest, lr=0.002, betas=(0.9, 0.98), weight_decay=0.0), 0.002),
        )
        self._begun = time.process_time()
        self.steps = 0
        self.progress = 0.0
        self.losses: list[float] = []

    def __iter__(self) -> Iterator[int]:
        """Step numbers until the time is over."""
        while self.progress < 1:
            yield self.steps

    def step(self, loss: torch.Tensor) -> None:
        """Learn from this loss."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        pace = min(1.0, (self.steps + 1) / 100) * min(1.0, max(0.0, 2 * (1 - self.progress)))
        for optimizer, peak in self._optimizers:
            optimizer.param_groups[0]["lr"] = peak * pace
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())
        self.steps += 1
        spent = time.process_time() - self._begun
        plan = self._plan
        self.progress = self.steps / plan.steps if plan.steps else spent / (60 * plan.minutes)
        if self.steps % 100 == 0 or self.steps == 1:
            recent = self.losses[-100:]
            mean = sum(recent) / len(recent)
            print(f"step {self.steps} loss {mean:.4f} {spent / 60:.1f} min", flush=True)


def padded(rows: Iterable[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of equal width, and the mask."""
    rows = list(rows)
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def shifted(ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Position ids that begin anywhere in some rows, so that all positions are learned."""
    rows, width = ids.shape
    first = torch.randint(0, LONGEST - width + 1, (rows, 1), generator=generator)
    first[torch.rand((rows, 1), generator=generator) > 0.3] = 0
    return first + torch.arange(width)
