"""What a Job's metadata may be, in a body and as a form's field."""

from __future__ import annotations

import pytest
from rest_framework.serializers import ValidationError

from jobs.api.serializers import MetadataField


def read(text: str) -> dict[str, str]:
    return MetadataField().to_internal_value(MetadataField.from_text(text))


def test_a_form_writes_it_as_json():
    assert read('{"order": "17", "ü": "\\u00fc"}') == {"order": "17", "ü": "ü"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "1",
        '{"a": 1}',
        '{"a": "\\u0000"}',
        '{"a": "\\ud800"}',
        '{"\\u0000": "a"}',
        "[" * 9999,
    ],
)
def test_what_the_database_could_not_keep_is_refused(text):
    with pytest.raises(ValidationError):
        read(text)
