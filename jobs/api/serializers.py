"""Bodies of the job API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.api.serializers import PageSerializer
from casola_site.core import outputs
from casola_site.core.clock import now, unix
from casola_site.core.fields import StrictCharField, StrictIntegerField, StrictSerializer
from casola_site.core.network import base_url
from casola_site.core.parsers import InvalidJSON, decode_json
from jobs.enums import JobStatus
from jobs.models import Job
from jobs.submission import Wishes

MAX_PAIRS, MAX_NAME, MAX_VALUE = 16, 64, 512
LONGEST_DEADLINE = 7 * 24 * 60 * 60


class InputField(serializers.DictField):
    """The request body of the Task's own surface."""

    default_error_messages = {"not_a_dict": "must be an object"}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """As it is; the Task's own serializer checks it."""
        if not isinstance(data, dict):
            self.fail("not_a_dict", input_type=type(data).__name__)
        return data


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": MAX_VALUE},
        "maxProperties": MAX_PAIRS,
    }
)
class MetadataField(serializers.Field):
    """A few texts by name; in a form they are JSON."""

    @staticmethod
    def from_text(text: str) -> Any:
        """Of a form's field; what is no JSON stays, to be refused."""
        try:
            return decode_json(text.encode())
        except (InvalidJSON, ValueError, RecursionError):
            return text

    def to_internal_value(self, data: Any) -> dict[str, str]:
        """As it is."""
        if not isinstance(data, dict):
            raise serializers.ValidationError("must be an object")
        if len(data) > MAX_PAIRS:
            raise serializers.ValidationError(f"must have at most {MAX_PAIRS} members")
        for name, value in data.items():
            if not 0 < len(name) <= MAX_NAME:
                raise serializers.ValidationError(f"names must have 1 to {MAX_NAME} characters")
            if not isinstance(value, str) or len(value) > MAX_VALUE:
                message = f"must be a string of at most {MAX_VALUE} characters"
                raise serializers.ValidationError({name: message})
        return data

    def to_representation(self, value: dict[str, str]) -> dict[str, str]:
        """As it is."""
        return value


class WishesSerializer(StrictSerializer):
    """What may be said of a Job beside its input."""

    priority = StrictIntegerField(
        required=False,
        min_value=-10,
        max_value=10,
        help_text="Among the jobs of your organization that wait; the highest first",
    )
    deadline_s = StrictIntegerField(
        required=False,
        min_value=1,
        max_value=LONGEST_DEADLINE,
        help_text="Seconds from now in which the job must have ended, or it fails with `timeout`",
    )
    metadata = MetadataField(required=False, help_text="Yours to recognise the job by")


def wishes_of(data: dict[str, Any]) -> Wishes:
    """Of a checked body."""
    names = ("priority", "deadline_s", "metadata")
    return Wishes(**{name: data[name] for name in names if name in data})


class JobCreateSerializer(WishesSerializer):
    """A Job to be done: the Task's own request body goes into `input`."""

    model_id = StrictCharField(max_length=200)
    task = StrictCharField(max_length=60)
    input = InputField()


class JobCreatedSerializer(serializers.Serializer):
    """Where to look for it."""

    id = serializers.UUIDField()
    queue_id = serializers.CharField()


class JobErrorSerializer(serializers.Serializer):
    """Why a Job failed."""

    code = serializers.CharField()
    message = serializers.CharField()


class JobSummarySerializer(serializers.Serializer):
    """A Job as lists show it."""

    id = serializers.UUIDField()
    queue_id = serializers.CharField()
    model_id = serializers.CharField()
    task = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)
    progress = serializers.FloatField()
    error = JobErrorSerializer(allow_null=True)
    usage = serializers.DictField(child=serializers.IntegerField())
    attempts = serializers.IntegerField()
    priority = serializers.IntegerField()
    metadata = serializers.DictField(child=serializers.CharField())
    created_at = serializers.IntegerField()
    started_at = serializers.IntegerField(allow_null=True)
    completed_at = serializers.IntegerField(allow_null=True)
    deadline_at = serializers.IntegerField(allow_null=True)
    expires_at = serializers.IntegerField(
        allow_null=True, help_text="When its data is deleted; null until it has ended"
    )
    data_deleted_at = serializers.IntegerField(
        allow_null=True, help_text="When its result, input, metadata and files were deleted"
    )

    def to_representation(self, instance: Job) -> dict[str, Any]:
        """Times as Unix seconds; no inside shows."""
        error = instance.error
        return {
            "id": str(instance.pk),
            "queue_id": instance.queue_id,
            "model_id": instance.model_id,
            "task": instance.task,
            "status": instance.status,
            "progress": instance.progress,
            "error": error and {"code": error.get("code"), "message": error.get("message")},
            "usage": instance.units,
            "attempts": instance.attempts,
            "priority": instance.priority,
            "metadata": instance.metadata or {},
            "created_at": unix(instance.created_at),
            "started_at": unix(instance.started_at),
            "completed_at": unix(instance.completed_at),
            "deadline_at": unix(instance.deadline_at),
            "expires_at": unix(instance.expires_at),
            "data_deleted_at": unix(instance.data_deleted_at),
        }


class JobSerializer(JobSummarySerializer):
    """A Job."""

    result = serializers.JSONField(allow_null=True)

    def to_representation(self, instance: Job) -> dict[str, Any]:
        """With the result, its addresses opening its files for another day."""
        shown = super().to_representation(instance)
        return {**shown, "result": shown_result(instance, base_url(self.context["request"]), now())}


def shown_result(job: Job, base: str, moment: datetime) -> Any:
    """A Job's result for a caller who knows us by `base`."""
    return outputs.absolute(job.result, base, now=moment, latest=job.expires_at)


class JobListSerializer(PageSerializer):
    """Some of the Organization's Jobs."""

    jobs = JobSummarySerializer(many=True)
