"""GET /api/model-status."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.enums import Availability
from inference.hosting import availabilities
from inference.models import ModelSpec


class ModelStatusSerializer(serializers.Serializer):
    """One model's availability."""

    model_id = serializers.CharField()
    spec_id = serializers.CharField()
    enabled = serializers.BooleanField()
    tasks = serializers.ListField(child=serializers.CharField())
    fal_slugs = serializers.ListField(child=serializers.CharField())
    status = serializers.ChoiceField(choices=Availability.choices)
    demo = serializers.BooleanField()


class ModelStatusListSerializer(serializers.Serializer):
    """All models."""

    models = ModelStatusSerializer(many=True)


class ModelStatusViewSet(ApiViewSet):
    """Availability of the models."""

    required_scopes = {"GET": Scope.USER_READ}

    @extend_schema(
        operation_id="get_model_status",
        summary="Model availability",
        tags=["Models"],
        responses=ModelStatusListSerializer,
    )
    def list(self, request: Any) -> Response:
        """Every model with its tasks, fal slugs and whether it is online."""
        specs = list(ModelSpec.objects.order_by("model_id"))
        status = availabilities(specs)
        return Response(
            {
                "models": [
                    {
                        "model_id": spec.model_id,
                        "spec_id": spec.public_id,
                        "enabled": spec.enabled,
                        "tasks": spec.tasks,
                        "fal_slugs": spec.fal_slugs,
                        "status": status[spec.public_id],
                        "demo": spec.is_demo,
                    }
                    for spec in specs
                    if request.auth.may_use(spec.model_id)
                ]
            }
        )
