"""Forms of the dashboard: what a service refuses shows at the field it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from django import forms
from django.http import HttpRequest, QueryDict

from casola_site.core.errors import ApiError
from casola_site.core.ids import random_text

T = TypeVar("T")


def posted(request: HttpRequest) -> QueryDict | None:
    """What a form is bound to: what was posted, be it nothing, and None before that."""
    return request.POST if request.method == "POST" else None


class PageForm(forms.Form):
    """A form whose fields' names are those of the service's parameters, or are told by `params`."""

    params: ClassVar[dict[str, str]] = {}
    """A service's parameter -> the field that it comes from."""

    def refuse(self, error: ApiError) -> None:
        """Show the error at its field, else above the form."""
        name = self.params.get(error.param or "", error.param)
        self.add_error(name if name in self.fields else None, error.message)

    def carry_out(self, service: Callable[..., T], **arguments: Any) -> T | None:
        """What the service returns; None when it refuses, and the form then says why."""
        try:
            return service(**arguments)
        except ApiError as error:
            self.refuse(error)
            return None


class OnceField(forms.CharField):
    """A random text that makes a form sent twice (a reload) the same request."""

    widget = forms.HiddenInput

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=64, initial=lambda: random_text(22), **options)
