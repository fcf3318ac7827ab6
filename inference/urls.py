"""Pages of arriving."""

from django.urls import path

from inference import views

urlpatterns = [
    path("start", views.start, name="start"),
    path("welcome", views.welcome, name="welcome"),
    path("welcome/key", views.new_key, name="welcome-key"),
    path("welcome/test", views.test, name="welcome-test"),
    path("welcome/status", views.first_call, name="welcome-status"),
]
