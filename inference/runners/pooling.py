"""How the hidden states of a text become one vector, as the model's folder says.

sentence-transformers keeps this in small files beside the weights (`modules.json`,
`1_Pooling/config.json` and others); they are read here, the library itself is not needed. A folder
without them gets the mean of all tokens, and unit length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inference.runners.base import LoadError
from inference.runners.model_folder import read_json

MODULES = "modules.json"
KNOWN = ("Transformer", "Pooling", "Normalize")
QUERY_NAMES = ("query", "s2p_query", "retrieval.query")
DOCUMENT_NAMES = ("document", "passage", "s2p_passage", "retrieval.passage")

Pool = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], torch.Tensor]


def first_token(
    hidden: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor
) -> torch.Tensor:
    """The state of the first token (BERT's [CLS])."""
    del mask, last
    return hidden[:, 0].float()


def last_token(hidden: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor) -> torch.Tensor:
    """The state of each text's last token."""
    del mask
    return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


def mean(hidden: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor) -> torch.Tensor:
    """The mean over a text's tokens."""
    if mask is None:
        return hidden.float().mean(1)
    kept = mask.unsqueeze(-1).float()
    return (hidden.float() * kept).sum(1) / (last + 1).unsqueeze(-1)


def greatest(hidden: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor) -> torch.Tensor:
    """The greatest value of each feature over a text's tokens."""
    del last
    if mask is None:
        return hidden.float().amax(1)
    return hidden.float().masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)


MODES: dict[str, Pool] = {
    "cls": first_token,
    "lasttoken": last_token,
    "mean": mean,
    "max": greatest,
}
# How the older files name the modes.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """What to do with a model's hidden states, and what to put before its texts."""

    mode: str = "mean"
    normalise: bool = True
    longest: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str = ""

    @property
    def pool(self) -> Pool:
        """The function of the mode."""
        return MODES[self.mode]

    def prompt(self, *names: str) -> str:
        """The text before a query or a document; empty where the model knows none."""
        return next((self.prompts[name] for name in names if name in self.prompts), "")


def read_pooling(folder: Path) -> Pooling:
    """What the folder says. Raises LoadError where it wants something that is not done here."""
    if not (folder / MODULES).is_file():
        return Pooling()
    modules = read_json(folder / MODULES)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise LoadError(f"{MODULES} is not usable")
    kinds = {
        str(one.get("type", "")).rsplit(".", 1)[-1]: str(one.get("path", "")) for one in modules
    }
    for kind in kinds:
        if kind not in KNOWN:
            raise LoadError(f"{MODULES} names {kind[:60]!r}, which is not supported")
    prompts, default = _prompts(folder)
    return Pooling(
        mode=_mode(_optional(_inside(folder, kinds.get("Pooling", "")) / "config.json")),
        normalise="Normalize" in kinds,
        longest=_optional(folder / "sentence_bert_config.json").get("max_seq_length"),
        prompts=prompts,
        default_prompt=default,
    )


def _mode(config: dict[str, Any]) -> str:
    named = config.get("pooling_mode")
    chosen = [named] if isinstance(named, str) else [n for k, n in FLAGS.items() if config.get(k)]
    others = [k for k in config if k.startswith("pooling_mode_") and k not in FLAGS and config[k]]
    if not chosen and not others:
        return "mean"
    if others or len(chosen) != 1 or chosen[0] not in MODES:
        raise LoadError(f"this way of pooling is not supported: {(chosen + others)!r}"[:200])
    return chosen[0]


def _prompts(folder: Path) -> tuple[dict[str, str], str]:
    config = _optional(folder / "config_sentence_transformers.json")
    found = config.get("prompts")
    prompts = {str(k): v for k, v in (found or {}).items() if isinstance(v, str)}
    return prompts, prompts.get(str(config.get("default_prompt_name")), "")


def _inside(folder: Path, path: str) -> Path:
    """A folder below; nothing outside is read."""
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise LoadError(f"{MODULES} points outside the folder")
    return found


def _optional(file: Path) -> dict[str, Any]:
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise LoadError(f"{file.name} is not usable")
    return found
