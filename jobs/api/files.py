"""/openai/v1/files: OpenAI's files, to be named in batches and requests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core.clock import now, unix
from casola_site.core.errors import InvalidRequest, Surface
from casola_site.core.fields import StrictCharField, StrictChoiceField, StrictSerializer
from casola_site.core.file_response import file_response
from casola_site.core.multipart import FormParser, Upload
from casola_site.core.pagination import page
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from jobs.enums import FilePurpose
from jobs.models import StoredFile
from jobs.sent_files import Sender, delete_file, find_file, keep_file, open_file, sent_files
from usage.limits import RateClass

FILE = OpenApiParameter("file_id", str, OpenApiParameter.PATH)
MOST_FILES = 10_000
SHORTEST_LIFE, LONGEST_LIFE = 3_600, 2_592_000  # seconds
ANCHOR = "created_at"


@extend_schema_field(OpenApiTypes.BINARY)
class UploadField(serializers.Field):
    """A file of a form."""

    default_error_messages = {"invalid": "must be a file"}

    def to_internal_value(self, data: Any) -> Upload:
        """As it lies on disk; the form's parser has made its name a plain one, of 255 at most."""
        if not isinstance(data, Upload):
            self.fail("invalid")
        return data


class LifetimeSerializer(StrictSerializer):
    """For how long a file is kept."""

    anchor = StrictChoiceField(choices=[ANCHOR])
    seconds = serializers.IntegerField(min_value=SHORTEST_LIFE, max_value=LONGEST_LIFE)


class FileCreateSerializer(StrictSerializer):
    """The form that sends a file."""

    file = UploadField()
    purpose = StrictChoiceField(choices=FilePurpose.values)
    expires_after = LifetimeSerializer(required=False)


class FileSerializer(serializers.ModelSerializer):
    """OpenAI's file object."""

    id = serializers.CharField(source="public_id")
    object = serializers.SerializerMethodField()
    bytes = serializers.IntegerField(source="size_bytes")
    created_at = serializers.SerializerMethodField()
    expires_at = serializers.SerializerMethodField()
    status = serializers.SerializerMethodField()

    class Meta:
        model = StoredFile
        fields = (
            "id",
            "object",
            "bytes",
            "created_at",
            "expires_at",
            "filename",
            "purpose",
            "status",
        )

    def get_object(self, file: StoredFile) -> str:
        """Its kind."""
        del file
        return "file"

    def get_created_at(self, file: StoredFile) -> int:
        """Unix time."""
        return unix(file.created_at)

    def get_expires_at(self, file: StoredFile) -> int | None:
        """Unix time; null when it is kept until it is deleted."""
        return None if file.expires_at is None else unix(file.expires_at)

    def get_status(self, file: StoredFile) -> str:
        """Nothing is done with it before it is used, so a file that can be seen is ready."""
        del file
        return "processed"


class FileListSerializer(serializers.Serializer):
    """A page of files."""

    object = serializers.CharField()
    data = FileSerializer(many=True)
    first_id = StrictCharField(allow_null=True)
    last_id = StrictCharField(allow_null=True)
    has_more = serializers.BooleanField()


class FileDeletedSerializer(serializers.Serializer):
    """What is left of a file."""

    id = serializers.CharField()
    object = serializers.CharField()
    deleted = serializers.BooleanField()


class FileViewSet(ApiViewSet):
    """The files that clients of the caller's Organization sent."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {
        "GET": Scope.USER_READ,
        "POST": Scope.USER_WRITE,
        "DELETE": Scope.USER_WRITE,
    }
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}
    parser_classes = (FormParser,)
    form_objects = frozenset({"expires_after"})

    @extend_schema(
        operation_id="create_file",
        summary="Upload a file",
        tags=["Files"],
        request={"multipart/form-data": FileCreateSerializer},
        responses={200: FileSerializer},
    )
    def create(self, request: Any) -> Response:
        """Keep a file of up to 200 MB; one for a batch goes after 30 days, unless told otherwise."""
        body = FileCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data, identity = body.validated_data, request.auth
        life = data.get("expires_after")
        upload: Upload = data["file"]
        file = keep_file(
            upload.content,
            size=upload.size,
            filename=upload.filename,
            purpose=FilePurpose(data["purpose"]),
            lifetime=None if life is None else timedelta(seconds=life["seconds"]),
            sender=Sender(
                organization_id=identity.organization_pk,
                token_id=identity.token_pk,
                user_id=identity.user_pk,
                storage_bytes=identity.storage_bytes,
                plan=identity.plan,
            ),
            now=now(),
        )
        return Response(FileSerializer(file).data)

    @extend_schema(
        operation_id="list_files",
        summary="List files",
        tags=["Files"],
        parameters=[
            OpenApiParameter("after", str),
            OpenApiParameter("limit", int),
            OpenApiParameter("order", str, enum=["asc", "desc"]),
            OpenApiParameter("purpose", str, enum=FilePurpose.values),
        ],
        responses=FileListSerializer,
    )
    def list(self, request: Any) -> Response:
        """Newest first."""
        files = sent_files(organization_id=request.auth.organization_pk, now=now())
        purpose = request.query_params.get("purpose")
        if purpose:
            if purpose not in FilePurpose.values:
                words = ", ".join(FilePurpose.values)
                raise InvalidRequest(
                    f"purpose must be one of {words}", code="invalid_value", param="purpose"
                )
            files = files.filter(purpose=purpose)
        rows, has_more = page(files, request.query_params, default=MOST_FILES, most=MOST_FILES)
        data = FileSerializer(rows, many=True).data
        return Response(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": has_more,
            }
        )

    @extend_schema(
        operation_id="get_file",
        summary="One file",
        tags=["Files"],
        parameters=[FILE],
        responses=FileSerializer,
    )
    def retrieve(self, request: Any, file_id: str) -> Response:
        """What is known of it."""
        return Response(FileSerializer(_found(request, file_id)).data)

    @extend_schema(
        operation_id="delete_file",
        summary="Delete a file",
        tags=["Files"],
        parameters=[FILE],
        responses={200: FileDeletedSerializer},
    )
    def destroy(self, request: Any, file_id: str) -> Response:
        """Take it away, its content too."""
        file = _found(request, file_id)
        delete_file(file)
        return Response({"id": file.public_id, "object": "file", "deleted": True})


class FileContentViewSet(ApiViewSet):
    """The bytes as they were sent."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"GET": Scope.USER_READ}

    @extend_schema(
        operation_id="get_file_content",
        summary="The content of a file",
        tags=["Files"],
        parameters=[FILE],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    def retrieve(self, request: Any, file_id: str) -> Any:
        """The whole file, or the range of it that is asked for."""
        file = _found(request, file_id)
        content = open_file(file)
        response = file_response(
            request._request,
            content,
            size=file.size_bytes,
            content_type="application/octet-stream",
            etag=f'"{file.public_id}"',
        )
        response["Content-Disposition"] = "attachment"
        return response


def _found(request: Any, file_id: str) -> StoredFile:
    return find_file(organization_id=request.auth.organization_pk, file_id=file_id, now=now())
