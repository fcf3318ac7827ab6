"""Routes of files under /openai."""

from django.urls import path

from jobs.api.files import FileContentViewSet, FileViewSet

urlpatterns = [
    path("v1/files", FileViewSet.as_view({"get": "list", "post": "create"})),
    path("v1/files/<str:file_id>", FileViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
    path("v1/files/<str:file_id>/content", FileContentViewSet.as_view({"get": "retrieve"})),
]
