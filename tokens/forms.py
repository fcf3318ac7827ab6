"""Forms of the token pages."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import Any

from django import forms

from accounts.forms import ConfirmForm
from casola_site.core.budgets import plain
from casola_site.core.forms import BudgetFields, OnceField, PageForm
from casola_site.core.scopes import Scope
from tokens.keys import is_well_formed
from tokens.models import ApiToken

SCOPE_WORDS = {
    Scope.USER_READ: "See models, jobs, results and the own profile",
    Scope.USER_WRITE: "Use models: send requests, create and cancel jobs",
    Scope.ADMIN_READ: "See members, invites, tokens, usage and the audit",
    Scope.ADMIN_WRITE: "Manage members, invites, tokens and the organization",
    Scope.WORKER_READ: "Read what runners read",
    Scope.WORKER_WRITE: "Act as a runner",
    Scope.SYSTEM_READ: "See the state of the whole installation",
    Scope.SYSTEM_WRITE: "Administer the whole installation",
}
DAYS = (7, 30, 90, 180, 365)
NEVER, KEEP = "never", "keep"
EXPIRIES = [*((str(days), f"in {days} days") for days in DAYS), (NEVER, "never")]
GRACES = (
    ("0", "ends now"),
    ("3600", "works for one more hour"),
    ("86400", "works for one more day"),
    ("604800", "works for seven more days"),
)
MAX_LIST, MAX_ITEM = 100, 200
LINES = forms.Textarea(attrs={"rows": 3, "spellcheck": "false"})


class LinesField(forms.CharField):
    """Texts, one a line; None without any."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, widget=LINES, max_length=30_000, **options)

    def clean(self, value: Any) -> list[str] | None:
        """The lines without blanks. Raises ValidationError for too many or too long ones."""
        lines = [line.strip() for line in super().clean(value).splitlines() if line.strip()]
        if len(lines) > MAX_LIST or any(len(line) > MAX_ITEM for line in lines):
            raise forms.ValidationError(f"At most {MAX_LIST} lines of {MAX_ITEM} characters.")
        return lines or None


class TokenFieldsForm(BudgetFields):
    """What is chosen when a token is made, and can be changed."""

    params = {**BudgetFields.params, "expires_at": "expires"}

    name = forms.CharField(max_length=120, help_text="Where it is used, such as “Website”.")
    description = forms.CharField(max_length=500, required=False)
    scopes = forms.MultipleChoiceField(label="What it may do", widget=forms.CheckboxSelectMultiple)
    expires = forms.ChoiceField(label="Expires", choices=EXPIRIES, initial="90")
    allowed_models = LinesField(
        label="Only these models",
        help_text="Model ids, one a line, as in the list of models. Empty: all models.",
    )
    allowed_ips = LinesField(
        label="Only from these addresses",
        help_text="IP addresses or networks, one a line, such as 203.0.113.0/24. Empty: anywhere.",
    )

    def __init__(self, *args: Any, reach: frozenset[Scope], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["scopes"].choices = [  # type: ignore[attr-defined]
            (scope.value, words) for scope, words in SCOPE_WORDS.items() if scope in reach
        ]

    def clean_allowed_ips(self) -> list[str] | None:
        """Addresses and networks."""
        for text in self.cleaned_data["allowed_ips"] or []:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise forms.ValidationError(f"“{text}” is no IP address or network.") from None
        return self.cleaned_data["allowed_ips"]

    def columns(self, moment: datetime) -> dict[str, Any]:
        """As the services take them."""
        data = {name: self.cleaned_data[name] for name in COLUMNS}
        data["budget"] = self.budget()
        expires = self.cleaned_data["expires"]
        if expires != KEEP:
            days = None if expires == NEVER else timedelta(days=int(expires))
            data["expires_at"] = None if days is None else moment + days
        return data


COLUMNS = ("name", "description", "scopes", "allowed_models", "allowed_ips")


class TokenForm(TokenFieldsForm):
    """A new token."""

    service_account = forms.BooleanField(
        required=False,
        label="Service account",
        help_text="Belongs to the organization instead of you, and stays when you leave.",
    )
    once = OnceField()

    def __init__(self, *args: Any, may_serve: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        if not may_serve:
            del self.fields["service_account"]


class TokenChangeForm(TokenFieldsForm):
    """What is to be different about a token."""

    def __init__(self, *args: Any, token: ApiToken, **options: Any) -> None:
        initial = {name: getattr(token, name) for name in COLUMNS}
        for name in ("allowed_models", "allowed_ips"):
            initial[name] = "\n".join(initial[name] or [])
        if token.budget is not None:
            initial["budget_amount"] = plain(token.budget.amount)
            initial["budget_period"] = token.budget.period
        super().__init__(*args, initial={**initial, "expires": KEEP}, **options)
        kept = f"{token.expires_at:%Y-%m-%d %H:%M} UTC" if token.expires_at else "never"
        choices = [(KEEP, f"as now: {kept}"), *EXPIRIES]
        self.fields["expires"].choices = choices  # type: ignore[attr-defined]
        known = {value for value, _ in self.fields["scopes"].choices}  # type: ignore[attr-defined]
        for scope in token.scopes:  # beyond the role by now: it may stay or go
            if scope not in known and scope in SCOPE_WORDS:
                words = SCOPE_WORDS[Scope(scope)]
                self.fields["scopes"].choices.append((scope, words))  # type: ignore[attr-defined]


class RotateForm(PageForm):
    """How long the present secret goes on working."""

    params = {"grace_seconds": "grace"}

    grace = forms.ChoiceField(label="The present secret", choices=GRACES)
    once = OnceField()


class RevokeForm(ConfirmForm):
    """The token's name, typed."""


class SecretForm(forms.Form):
    """A secret that the page itself holds, to be made into a file."""

    secret = forms.CharField(max_length=64)

    def clean_secret(self) -> str:
        """One of ours, and nothing else."""
        if not is_well_formed(self.cleaned_data["secret"]):
            raise forms.ValidationError("This is no secret.")
        return self.cleaned_data["secret"]
