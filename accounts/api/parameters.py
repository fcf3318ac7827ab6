"""Parameters that several routes share, for the schema."""

from drf_spectacular.utils import OpenApiParameter

ORGANIZATION = OpenApiParameter("organization_id", str, OpenApiParameter.PATH)
MEMBER = OpenApiParameter("member_id", str, OpenApiParameter.PATH, description="the User's id")
INVITE = OpenApiParameter("invite_id", str, OpenApiParameter.PATH)
IDEMPOTENCY_KEY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)
PAGING = [
    OpenApiParameter("limit", int, description="1-100, default 20"),
    OpenApiParameter("after", str, description="id of the last row of the page before"),
    OpenApiParameter("order", str, enum=["asc", "desc"]),
]
