"""Organization routes, one file for each noun."""

from accounts.api.views.audit import AuditViewSet
from accounts.api.views.invites import InviteAcceptViewSet, InviteResendViewSet, InviteViewSet
from accounts.api.views.members import MemberViewSet
from accounts.api.views.organizations import OrganizationListViewSet, OrganizationViewSet
from accounts.api.views.transfers import TransferAcceptViewSet, TransferViewSet

__all__ = [
    "AuditViewSet",
    "InviteAcceptViewSet",
    "InviteResendViewSet",
    "InviteViewSet",
    "MemberViewSet",
    "OrganizationListViewSet",
    "OrganizationViewSet",
    "TransferAcceptViewSet",
    "TransferViewSet",
]
