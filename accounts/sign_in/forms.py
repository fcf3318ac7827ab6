"""allauth's forms where its own would tell known addresses from unknown ones, or fail."""

from __future__ import annotations

from typing import Any

from allauth.account import forms
from allauth.account.internal.flows.manage_email import sync_user_email_address
from allauth.account.internal.flows.signup import prevent_enumeration
from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse

from accounts.models import User


class SignupForm(forms.SignupForm):
    """E-mail and password."""

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        """The new User; for an address that is known, the answer an unknown one would get."""
        if self.account_already_exists:
            make_password(self.cleaned_data["password1"])  # takes as long as the other way
            return super().try_save(request)
        try:
            with transaction.atomic():
                return super().try_save(request)
        except IntegrityError:  # somebody signed up with it in this very moment
            return None, prevent_enumeration(request, email=self.cleaned_data["email"])


class ResetPasswordForm(forms.ResetPasswordForm):
    """The address alone."""

    def save(self, request: HttpRequest, **options: Any) -> str:
        """Send the code; a User that support staff or a command made gets their address's row."""
        for user in self.users:
            sync_user_email_address(user)
        return super().save(request, **options)
