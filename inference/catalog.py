"""The models a fresh installation knows, served by the shipped demo weights."""

from __future__ import annotations

from django.conf import settings

from inference.models import ModelSpec

DEMO_CHAT = {
    "model_id": "Qwen/Qwen3.5-4B",
    "aliases": ["qwen3.5-4b", "casola-demo-chat"],
    "tasks": ["openai/chat-completion"],
    "engine": "chat",
    "source": "inference/demo/weights/chat",
    "dtype": "float32",
    "slots": 32,
    "is_demo": True,
    "keep_loaded": True,
}
DEMO_ECHO = {
    "model_id": "test/echo",
    "aliases": ["echo"],
    "tasks": ["openai/chat-completion", "test/echo"],
    "engine": "echo",
    "source": "",
    "slots": 1024,
    "keep_loaded": True,
}


def ensure_catalog() -> None:
    """Add the catalogue's rows where they are missing; rows that are there stay as they are."""
    entries = [DEMO_CHAT]
    if "echo" in settings.RUNNER_ENGINES:
        entries.append(DEMO_ECHO)
    for entry in entries:
        ModelSpec.objects.get_or_create(model_id=entry["model_id"], defaults=entry)
