"""Bodies of the job API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rest_framework import serializers

from accounts.api.serializers import PageSerializer
from casola_site.core import outputs
from casola_site.core.clock import now, unix
from casola_site.core.fields import StrictCharField, StrictIntegerField, StrictSerializer
from casola_site.core.network import base_url
from jobs.enums import JobStatus
from jobs.models import Job


class InputField(serializers.DictField):
    """The request body of the Task's own surface."""

    default_error_messages = {"not_a_dict": "must be an object"}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """As it is; the Task's own serializer checks it."""
        if not isinstance(data, dict):
            self.fail("not_a_dict", input_type=type(data).__name__)
        return data


class JobCreateSerializer(StrictSerializer):
    """A Job to be done: the Task's own request body goes into `input`."""

    model_id = StrictCharField(max_length=200)
    task = StrictCharField(max_length=60)
    input = InputField()
    priority = StrictIntegerField(required=False, min_value=-10, max_value=10)


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
