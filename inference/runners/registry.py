"""Runner classes by name; each is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

from inference.runners.base import LoadError, Runner

RUNNERS = {
    "chat": "inference.runners.chat.ChatRunner",
    "embeddings": "inference.runners.embeddings.EmbeddingsRunner",
    "rerank": "inference.runners.rerank.RerankRunner",
    "echo": "inference.runners.echo.EchoRunner",
    "images": "inference.runners.images.ImageRunner",
    "speech": "inference.runners.speech.SpeechRunner",
    "video": "inference.runners.video.VideoRunner",
    "transcription": "inference.runners.transcription.TranscriptionRunner",
    "upstream": "inference.runners.upstream.UpstreamRunner",
}


def runner_class(name: str) -> type[Runner]:
    """The class of that name. Raises LoadError if there is none or its packages are missing."""
    path = RUNNERS.get(name)
    if path is None:
        raise LoadError(f"there is no runner named {name!r}")
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        raise LoadError(f"runner {name!r} cannot be imported: {error}") from error
