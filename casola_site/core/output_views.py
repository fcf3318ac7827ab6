"""GET /outputs/…: files of answers, for whoever holds a signed address."""

from __future__ import annotations

import time

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from casola_site.core import errors, outputs
from casola_site.core.clock import now
from casola_site.core.file_response import file_response

METHODS = ("GET", "HEAD")


def error_response(error: errors.ApiError) -> JsonResponse:
    """The envelope."""
    return JsonResponse(
        errors.body_for(error, "native"), status=error.status, headers=error.headers
    )


@csrf_exempt
async def output(request: HttpRequest, name: str) -> HttpResponseBase:
    """The file, or the range of it that is asked for."""
    try:
        until = admitted(request, name)
        return await sync_to_async(opened, thread_sensitive=False)(request, name, until)
    except errors.ApiError as error:
        return error_response(error)


def admitted(request: HttpRequest, name: str) -> int:
    """Until when the address opens the file.

    Raises MethodNotAllowed, NotFound or PermissionDenied.
    """
    if request.method not in METHODS:
        raise errors.MethodNotAllowed(headers={"Allow": ", ".join(METHODS)})
    return outputs.check(
        name,
        expires=request.GET.get("exp", ""),
        signature=request.GET.get("sig", ""),
        now=now(),
    )


def opened(request: HttpRequest, name: str, until: int) -> HttpResponseBase:
    """The file as an answer (this blocks). Raises NotFound when it is gone."""
    try:
        file = outputs.storage().open(f"{outputs.FOLDER}/{name}", "rb")
    except FileNotFoundError:
        raise errors.NotFound from None
    response = file_response(
        request,
        file.file,
        size=file.size,
        content_type=outputs.content_type(name),
        etag=f'"{name.rpartition("/")[2]}"',
    )
    left = max(0, until - int(time.time()))
    response["Cache-Control"] = f"private, max-age={left}, immutable"
    return response
