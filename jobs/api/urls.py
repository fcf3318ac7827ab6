"""Job routes under /api."""

from django.urls import path

from jobs.api.events import JobEventsViewSet
from jobs.api.views import JobCancelViewSet, JobDataViewSet, JobViewSet

urlpatterns = [
    path("jobs", JobViewSet.as_view({"get": "list", "post": "create"})),
    path("jobs/<str:job_id>", JobViewSet.as_view({"get": "retrieve"})),
    path("jobs/<str:job_id>/cancel", JobCancelViewSet.as_view({"post": "create"})),
    path("jobs/<str:job_id>/events", JobEventsViewSet.as_view({"get": "list"})),
    path("jobs/<str:job_id>/data", JobDataViewSet.as_view({"delete": "destroy"})),
]
