"""`"async": true` in a request for inference: it becomes a Job, and the answer says where to look."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from accounts.idempotency import Answer, answer_once
from accounts.models import Organization
from casola_site.core import outputs
from casola_site.core.clock import now
from casola_site.core.errors import ModelNotFound
from casola_site.core.fields import StrictBooleanField, StrictSerializer
from casola_site.core.multipart import Upload
from inference.ceilings import body_ceiling
from inference.contracts.surfaces import MEDIA_TASKS
from inference.selectors import Model, catalog, find_model
from jobs.api.serializers import WishesSerializer, wishes_of
from jobs.enums import JobStatus
from jobs.files import KeptFile
from jobs.submission import Submitter, submit_job
from tokens.identity import Identity
from usage.reservations import refusals_told

if TYPE_CHECKING:
    from inference.api.interactive import Interactive

ASYNC = "async"


class InferenceRequest(StrictSerializer):
    """What all requests for inference share: each may be done later."""

    def get_fields(self) -> dict[str, Any]:
        """With the one whose name is a word of Python."""
        later = StrictBooleanField(
            required=False,
            help_text="Answer 202 at once and do it as a job; then `priority`, `deadline_s` and "
            "`metadata` count as in POST /api/jobs",
        )
        return {**super().get_fields(), ASYNC: later}


class LaterSerializer(serializers.Serializer):
    """Where a request that is done later can be looked for."""

    request_id = serializers.UUIDField(help_text="The job's id")
    status = serializers.ChoiceField(choices=[(JobStatus.PENDING, JobStatus.PENDING)])
    status_url = serializers.CharField()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to such a request."""

    body: dict[str, Any]
    headers: dict[str, str]


def is_for_later(data: Any) -> bool:
    """Whether the caller does not want to wait."""
    return isinstance(data, dict) and data.get(ASYNC) is True


def submit(
    view: type[Interactive],
    *,
    identity: Identity,
    data: dict[str, Any],
    key: str | None,
    base: str,
) -> Accepted:
    """Make a Job of a request. Blocking.

    Raises what the view's own check and `submit_job` raise, ModelNotFound, or Conflict for an
    Idempotency-Key that came with another body.
    """
    moment, sent = now(), None if key is None else fingerprint(data)
    model, body = _checked(view, identity, data)
    options = WishesSerializer(data=data)
    options.is_valid(raise_exception=True)

    def make() -> Answer:
        uploads = view.keep_files(body, organization_id=identity.organization_pk, now=moment)
        try:
            job = submit_job(
                submitter=Submitter.of(identity),
                model_id=model.model_id,
                queue_id=model.queue_id,
                task=view.task,
                payload=body,
                wishes=wishes_of(options.validated_data),
                ceiling=body_ceiling(model=model, task=view.task, body=body, now=moment)
                if identity.is_budgeted
                else Decimal(0),
                makes_files=view.task in MEDIA_TASKS,
                uploads=uploads,
                now=moment,
            )
        except BaseException:
            _drop(uploads)
            raise
        place = f"{base}/api/jobs/{job.pk}"
        return 202, {"request_id": str(job.pk), "status": job.status, "status_url": place}

    with refusals_told(moment):
        _, answer = answer_once(
            organization=Organization(pk=identity.organization_pk),
            route=f"{ASYNC}:{view.task}",
            key=key,
            body=sent,
            now=moment,
            make=make,
        )
    headers = {"x-casola-job-id": answer["request_id"]}
    return Accepted(answer, {**headers, **({"x-casola-weights": "demo"} if model.is_demo else {})})


def _checked(
    view: type[Interactive], identity: Identity, data: dict[str, Any]
) -> tuple[Model, dict[str, Any]]:
    """The model and the Job's input: whole answers only, for nobody listens."""
    body = {**view.check(data), "stream": False}
    model = find_model(catalog(), body["model"], task=view.task)
    if not identity.may_use(model.model_id):
        raise ModelNotFound(body["model"])
    return model, body


def _drop(uploads: list[KeptFile]) -> None:
    for file in uploads:
        outputs.remove(file.name)


def fingerprint(value: Any) -> Any:
    """A body as JSON with a hash in place of each file: the same for the same request."""
    if isinstance(value, Upload):
        digest = hashlib.sha256()
        while part := value.content.read(1 << 20):
            digest.update(part)
        value.content.seek(0)
        return {"sha256": digest.hexdigest(), "filename": value.filename}
    if isinstance(value, dict):
        return {key: fingerprint(item) for key, item in value.items()}
    return [fingerprint(item) for item in value] if isinstance(value, list) else value
