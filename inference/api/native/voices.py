"""GET /api/voice/models."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core import outputs
from casola_site.core.clock import now
from casola_site.core.network import base_url
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.voices import preview_name, voice_models


class VoiceSerializer(serializers.Serializer):
    """One voice."""

    id = serializers.CharField(help_text="What a speech request names")
    name = serializers.CharField()
    language = serializers.CharField()
    preview_url = serializers.URLField(help_text="An mp3; works without a token for 24 hours")


class VoiceModelSerializer(serializers.Serializer):
    """One model and its voices."""

    model_id = serializers.CharField()
    demo = serializers.BooleanField()
    voices = VoiceSerializer(many=True)


class VoiceModelListSerializer(serializers.Serializer):
    """All models that speak."""

    models = VoiceModelSerializer(many=True)


class VoiceModelViewSet(ApiViewSet):
    """Models that speak, and their voices."""

    required_scopes = {"GET": Scope.USER_READ}

    @extend_schema(
        operation_id="list_voice_models",
        summary="Voices",
        tags=["Models"],
        responses=VoiceModelListSerializer,
    )
    def list(self, request: Any) -> Response:
        """Every model that speaks, with its voices."""
        base, moment = base_url(request), now()
        models = [
            {
                "model_id": model.spec.model_id,
                "demo": model.spec.is_demo,
                "voices": [
                    {
                        "id": voice.id,
                        "name": voice.name,
                        "language": voice.language,
                        "preview_url": base
                        + outputs.address(preview_name(model.spec, voice.id), now=moment),
                    }
                    for voice in model.voices
                ],
            }
            for model in voice_models()
            if request.auth.may_use(model.spec.model_id)
        ]
        return Response({"models": models})
