"""What was changed in the Organization, by whom."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render

from accounts.models import AuditEvent, Role
from accounts.permissions import MemberRequest, member_page
from accounts.services import Action
from casola_site.core.pagination import page


@member_page(Role.ADMIN)
def audit(request: MemberRequest) -> HttpResponse:
    """The newest changes first; those of one kind when `action` names it."""
    rows = AuditEvent.objects.filter(organization=request.organization)
    action = request.GET.get("action", "")
    if action in Action.__members__.values():
        rows = rows.filter(action=action)
    events, has_more = page(rows, {"limit": "50", "after": request.GET.get("after", "")})
    context = {
        "events": events,
        "next_after": events[-1].public_id if has_more else None,  # type: ignore[attr-defined]
        "is_later_page": "after" in request.GET,
        "action": action,
        "actions": [str(each) for each in Action],
    }
    return render(request, "accounts/audit.html", context)
