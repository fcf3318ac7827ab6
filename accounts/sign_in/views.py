"""allauth's pages where they show or keep more than allauth's own."""

from __future__ import annotations

from typing import Any

from allauth.account import views as account
from allauth.core.internal.httpkit import authenticated_user
from allauth.mfa.base.views import IndexView
from allauth.socialaccount.adapter import get_adapter as social_adapter
from allauth.usersessions.internal.flows.sessions import end_sessions
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.generic import TemplateView

from accounts.actors import actor_of
from accounts.services import Action, note_sign_in
from accounts.sign_in.adapters import NEXT_AFTER_RESET
from casola_site.core.clock import now
from casola_site.core.network import is_own_machine


class VerifyView(account.ConfirmEmailVerificationCodeView):
    """Asks for the code; at the machine itself, without a mail server, it shows what was mailed."""

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        """With `mail` at the machine itself."""
        context = super().get_context_data(**more)
        if is_own_machine(self.request):
            process = self._process
            is_real = process.user is not None and not process.state.get("account_already_exists")
            context["mail"] = {"code": process.code if is_real else ""}
        return context


class ResetCodeView(account.ConfirmPasswordResetCodeView):
    """Asks for the code of a password's reset, which no page shows: it opens somebody's account."""

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        """With where the mail is, at the machine itself."""
        context = super().get_context_data(**more)
        if is_own_machine(self.request):
            context["mail"] = {"in_terminal": True}
        return context


class NewPasswordView(account.CompletePasswordResetView):
    """The new password; `next` outlives the second factor that may follow."""

    def form_valid(self, form: Any) -> HttpResponse:
        """Sign in with it."""
        self.request.session[NEXT_AFTER_RESET] = self.get_next_url() or ""
        answer = super().form_valid(form)
        if self.request.user.is_authenticated:
            self.request.session.pop(NEXT_AFTER_RESET, None)
        return answer


class SecurityView(IndexView):
    """The overview: password, second factors, sessions, providers."""

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        """With what the cards tell."""
        context = super().get_context_data(**more)
        user = authenticated_user(self.request)
        codes = context["authenticators"].get("recovery_codes")
        context["codes_left"] = len(codes.get_unused_codes()) if codes else 0
        context["session_count"] = len(UserSession.objects.purge_and_list(user))
        context["has_providers"] = bool(social_adapter().list_apps(self.request))
        return context


class SessionsView(LoginRequiredMixin, TemplateView):
    """Where the User is signed in, each with a button that ends it."""

    template_name = "usersessions/usersession_list.html"

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        """The newest first."""
        sessions = UserSession.objects.purge_and_list(authenticated_user(self.request))
        sessions.sort(key=lambda session: session.created_at, reverse=True)
        return super().get_context_data(sessions=sessions, **more)

    def post(self, request: HttpRequest) -> HttpResponse:
        """End the one named by `end`, or (`end=others`) all but this one."""
        by, user = actor_of(request), authenticated_user(request)
        chosen = self._chosen(user, request.POST.get("end", ""))
        if chosen:
            data = {"count": len(chosen)}
            note_sign_in(action=Action.SESSIONS_ENDED, user=user, by=by, now=now(), data=data)
            end_sessions(request, chosen)
        if not request.user.is_authenticated:
            return redirect("account_login")
        messages.success(request, f"Sessions ended: {len(chosen)}")
        return redirect("usersessions_list")

    @staticmethod
    def _chosen(user: Any, end: str) -> list[UserSession]:
        sessions = list(UserSession.objects.filter(user=user))
        if end == "others":
            return [session for session in sessions if not session.is_current()]
        return [session for session in sessions if str(session.pk) == end]
