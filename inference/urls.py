"""Routes of inference outside the APIs, under /outputs."""

from django.urls import path

from inference.views import preview

urlpatterns = [path("previews/<path:name>", preview)]
