"""Usage routes under /api."""

from django.urls import path

from usage.api.views import BudgetViewSet, LimitsViewSet, UsageViewSet

urlpatterns = [
    path(
        "organizations/<str:organization_id>/budget",
        BudgetViewSet.as_view({"get": "retrieve", "put": "update", "delete": "destroy"}),
    ),
    path(
        "organizations/<str:organization_id>/usage",
        UsageViewSet.as_view({"get": "retrieve"}),
    ),
    path(
        "organizations/<str:organization_id>/limits",
        LimitsViewSet.as_view({"get": "retrieve"}),
    ),
]
