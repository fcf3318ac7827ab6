"""The models a fresh installation knows, served by the shipped demo weights."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings

from inference.models import ModelSpec
from usage.models import Price

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
DEMO_SPEECH = {
    "model_id": "Qwen3-TTS",
    "aliases": ["qwen3-tts-1.7b", "casola-demo-voice", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"],
    "tasks": ["openai/audio-speech"],
    "engine": "speech",
    "source": "espeak-ng",
    "slots": 16,
    "options": {"memory_mb": 160},
    "is_demo": True,
}
DEMO_EMBEDDINGS = {
    "model_id": "BAAI/bge-large-en-v1.5",
    "aliases": ["bge-large-en-v1.5", "casola-demo-embeddings"],
    "tasks": ["openai/embeddings"],
    "engine": "embeddings",
    "source": "inference/demo/weights/embeddings",
    "dtype": "float32",
    "slots": 512,
    "is_demo": True,
}
DEMO_RERANKER = {
    "model_id": "BAAI/bge-reranker-v2-m3",
    "aliases": ["bge-reranker-v2-m3", "casola-demo-reranker"],
    "tasks": ["openai/rerank"],
    "engine": "rerank",
    "source": "inference/demo/weights/reranker",
    "dtype": "float32",
    "slots": 512,
    "is_demo": True,
}
DEMO_IMAGES = {
    "model_id": "flux",
    "aliases": ["flux1-schnell", "casola-demo-images", "dall-e-2", "dall-e-3", "gpt-image-1"],
    "tasks": ["openai/image-generation", "openai/image-edit"],
    "engine": "images",
    "source": "inference/demo/weights/image",
    "dtype": "float32",
    "slots": 64,
    "options": {
        "native_side": 64,
        "only_square": True,
        "steps": 16,
        "guidance": 5.0,
        "memory_mb": 400,
    },
    "is_demo": True,
}
DEMO_TRANSCRIPTION = {
    "model_id": "whisper-large-v3",
    "aliases": ["openai/whisper-large-v3", "whisper-1", "casola-demo-transcription"],
    "tasks": ["openai/audio-transcription"],
    "engine": "transcription",
    "source": "inference/demo/weights/transcription",
    "dtype": "float32",
    "slots": 64,
    "options": {"longest_gap": 0.24, "no_speech": 0.9},
    "is_demo": True,
}
DEMO_VIDEO = {
    "model_id": "Wan-AI/Wan2.2-TI2V-5B",
    "aliases": [
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        "wan2.2-ti2v-5b",
        "wan2.2-5b",
        "casola-demo-video",
    ],
    "tasks": ["fal/text-to-video", "fal/image-to-video"],
    "engine": "video",
    "source": "inference/demo/weights/video",
    "dtype": "float32",
    "slots": 64,
    "options": {
        "native_side": 32,
        "native_frames": 9,
        "only_native": True,
        "steps": 20,
        "guidance": 4.0,
        "rows": 8,
        "memory_mb": 400,
    },
    "is_demo": True,
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


# USD for a million units; an operator adds rows with a later `valid_from` to change them.
PRICES = {
    "Qwen/Qwen3.5-4B": {
        "prompt_tokens": "0.10",
        "cached_tokens": "0.025",
        "completion_tokens": "0.40",
    },
    "Qwen3-TTS": {"characters": "4.00"},
    "flux": {"images": "3000.00"},
    "whisper-large-v3": {"audio_ms": "0.03"},
    "Wan-AI/Wan2.2-TI2V-5B": {"video_ms": "50.00"},
    "BAAI/bge-large-en-v1.5": {"prompt_tokens": "0.01"},
    "BAAI/bge-reranker-v2-m3": {"prompt_tokens": "0.02"},
}


def ensure_catalog() -> None:
    """Add the catalogue's rows where they are missing; rows that are there stay as they are."""
    entries = [
        DEMO_CHAT,
        DEMO_EMBEDDINGS,
        DEMO_RERANKER,
        DEMO_SPEECH,
        DEMO_TRANSCRIPTION,
        DEMO_IMAGES,
        DEMO_VIDEO,
    ]
    if "echo" in settings.RUNNER_ENGINES:
        entries.append(DEMO_ECHO)
    for entry in entries:
        ModelSpec.objects.get_or_create(model_id=entry["model_id"], defaults=entry)
    for model_id, units in PRICES.items():
        for unit, amount in units.items():
            Price.objects.get_or_create(
                model_id=model_id, unit=unit, defaults={"amount": Decimal(amount)}
            )
