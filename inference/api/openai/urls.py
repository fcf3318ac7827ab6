"""Routes under /openai."""

from django.urls import path

from inference.api.openai.chat import ChatCompletionViewSet
from inference.api.openai.completions import CompletionViewSet
from inference.api.openai.embeddings import EmbeddingsViewSet
from inference.api.openai.images import EditViewSet, GenerationViewSet
from inference.api.openai.models import ModelViewSet
from inference.api.openai.rerank import RerankV2ViewSet, RerankViewSet
from inference.api.openai.score import ScoreViewSet
from inference.api.openai.speech import SpeechViewSet
from inference.api.openai.transcription import TranscriptionViewSet
from inference.api.openai.translation import TranslationViewSet

urlpatterns = [
    path("v1/chat/completions", ChatCompletionViewSet.as_view({"post": "create"})),
    path("v1/completions", CompletionViewSet.as_view({"post": "create"})),
    path("v1/audio/speech", SpeechViewSet.as_view({"post": "create"})),
    path("v1/images/generations", GenerationViewSet.as_view({"post": "create"})),
    path("v1/images/edits", EditViewSet.as_view({"post": "create"})),
    path("v1/audio/transcriptions", TranscriptionViewSet.as_view({"post": "create"})),
    path("v1/audio/translations", TranslationViewSet.as_view({"post": "create"})),
    path("v1/embeddings", EmbeddingsViewSet.as_view({"post": "create"})),
    path("v1/rerank", RerankViewSet.as_view({"post": "create"})),
    path("v2/rerank", RerankV2ViewSet.as_view({"post": "create"})),
    path("v1/score", ScoreViewSet.as_view({"post": "create"})),
    path("v1/models", ModelViewSet.as_view({"get": "list"})),
    path("v1/models/<path:model>", ModelViewSet.as_view({"get": "retrieve"})),
]
