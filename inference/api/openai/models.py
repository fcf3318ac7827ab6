"""GET /openai/v1/models."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from casola_site.core.errors import ModelNotFound, Surface
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.openai.answers import ModelListSerializer, ModelSerializer
from inference.selectors import catalog, enabled_specs


def model_body(model_id: str) -> dict[str, Any]:
    """OpenAI's model object."""
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "casola"}


class ModelViewSet(ApiViewSet):
    """The models this token may use."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"GET": Scope.USER_READ}

    @extend_schema(
        operation_id="list_models",
        summary="List models",
        tags=["OpenAI"],
        responses=ModelListSerializer,
    )
    def list(self, request: Any) -> Response:
        """All enabled models."""
        models = [
            model_body(s.model_id) for s in enabled_specs() if request.auth.may_use(s.model_id)
        ]
        return Response({"object": "list", "data": models})

    @extend_schema(
        operation_id="get_model", summary="One model", tags=["OpenAI"], responses=ModelSerializer
    )
    def retrieve(self, request: Any, model: str) -> Response:
        """One model by id or alias; ids may hold slashes."""
        found = catalog().by_name.get(model.lower())
        if found is None or not request.auth.may_use(found.model_id):
            raise ModelNotFound(model)
        return Response(model_body(found.model_id))
