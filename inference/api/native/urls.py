"""Model routes under /api."""

from django.urls import path

from inference.api.native.views import ModelStatusViewSet

urlpatterns = [path("model-status", ModelStatusViewSet.as_view({"get": "list"}))]
