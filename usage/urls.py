"""The usage page."""

from django.urls import path

from usage import views

urlpatterns = [
    path("usage", views.usage, name="usage"),
    path("settings/limits", views.limits, name="limits"),
    path("usage.csv", views.usage_csv, name="usage-csv"),
]
