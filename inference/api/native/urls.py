"""Model routes under /api."""

from django.urls import path

from inference.api.native.views import ModelStatusViewSet
from inference.api.native.voices import VoiceModelViewSet

urlpatterns = [
    path("model-status", ModelStatusViewSet.as_view({"get": "list"})),
    path("voice/models", VoiceModelViewSet.as_view({"get": "list"})),
]
