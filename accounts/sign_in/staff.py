"""The admin's door: axes counts wrong passwords, then allauth's stages ask for the second factor."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from axes.handlers.database import AxesDatabaseHandler
from axes.helpers import get_cool_off
from django.contrib.admin import AdminSite
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from accounts.models import User
from casola_site.core.doors import Door, through


def typed_name(request: HttpRequest, credentials: dict[str, Any] | None = None) -> str:
    """The account that was tried, as Users' addresses are stored."""
    typed = (credentials or {}).get("username") or request.POST.get("username") or ""
    return str(typed).strip().lower()[:254]


class AdminAttempts(AxesDatabaseHandler):
    """axes at the admin's door only: other wrong passwords are not its business."""

    def user_login_failed(
        self, sender: Any, credentials: dict, request: HttpRequest | None = None, **more: Any
    ) -> None:
        """Count it if it was tried here."""
        if request is not None and self.is_admin_request(request):
            super().user_login_failed(sender, credentials, request, **more)

    def user_logged_in(self, sender: Any, request: HttpRequest, user: User, **more: Any) -> None:
        """Forget the failures of one who may enter."""
        if user.is_staff:
            super().user_logged_in(sender, request, user, **more)


class StaffLoginForm(AdminAuthenticationForm):
    """E-mail and password, whatever the case of the address."""

    def clean_username(self) -> str:
        """As stored."""
        return self.cleaned_data["username"].strip().lower()


class StaffLoginView(LoginView):
    """The admin's login form; what it leads to is a login of allauth's, with all its stages."""

    authentication_form = StaffLoginForm
    template_name = "admin/staff_login.html"

    def form_valid(self, form: StaffLoginForm) -> HttpResponse:
        """On to the verified address, the second factor, and the page asked for."""
        user = form.get_user()
        if self.request.user.is_authenticated:  # as somebody who may not enter
            get_adapter().logout(self.request)
        login = Login(user=user, email=user.email, redirect_url=self._wanted())
        return perform_password_login(self.request, {"email": user.email}, login)

    def _wanted(self) -> str:
        wanted = self.request.POST.get(REDIRECT_FIELD_NAME, "")
        return wanted if get_adapter().is_safe_url(wanted) else reverse("admin:index")

    def form_invalid(self, form: StaffLoginForm) -> HttpResponse:
        """Say what is wrong; once axes has locked the door, only that."""
        if not getattr(self.request, "axes_locked_out", False):
            return super().form_invalid(form)
        pause = int(get_cool_off(self.request).total_seconds())
        context = {**self.get_context_data(form=form), "minutes": pause // 60}
        answer = TemplateResponse(self.request, "admin/locked.html", context, status=429)
        answer["Retry-After"] = str(pause)
        return answer


class StaffSite(AdminSite):
    """Django's admin with that door."""

    @method_decorator(never_cache)
    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The form, or the first page for staff who are in already."""
        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index", current_app=self.name))
        context = {
            **self.each_context(request),
            "title": "Log in",
            "subtitle": None,
            "app_path": request.get_full_path(),
            "username": request.user.get_username(),
            REDIRECT_FIELD_NAME: request.GET.get(REDIRECT_FIELD_NAME, reverse("admin:index")),
            **(extra_context or {}),
        }
        request.current_app = self.name
        view = StaffLoginView.as_view(extra_context=context)
        return through(Door.LOGIN, view)(request)

    def password_change(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The one page that changes passwords."""
        return redirect("account_change_password")
