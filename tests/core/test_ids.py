"""Public ids: prefixed, random, and time-ordered for Jobs."""

from __future__ import annotations

import re
import uuid

import pytest

from casola_site.core import ids

PREFIXES = {
    ids.user_id: "user",
    ids.organization_id: "org",
    ids.token_id: "tok",
    ids.spec_id: "spec",
    ids.placement_id: "plc",
    ids.runner_id: "run",
    ids.usage_id: "use",
}


@pytest.mark.parametrize(("make", "prefix"), PREFIXES.items(), ids=PREFIXES.values())
def test_prefixed_ids(make, prefix):
    made = {make() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{22}}", public_id) for public_id in made)
    assert all(ids.can_be_id(public_id) for public_id in made)


def test_job_ids_are_sorted_by_time():
    made = [ids.job_id() for _ in range(200)]
    assert made == sorted(made)
    assert len(set(made)) == 200
    assert {job_id.version for job_id in made} == {7}
    assert all(ids.can_be_id(str(job_id)) for job_id in made)


def test_a_job_id_in_its_usual_spelling():
    job_id = ids.job_id()
    assert ids.parse_job_id(str(job_id)) == job_id
    assert isinstance(ids.parse_job_id(str(job_id)), uuid.UUID)


@pytest.mark.parametrize("spell", [str.upper, lambda t: t.replace("-", ""), lambda t: f"{t}\n"])
def test_other_spellings_are_no_job_ids(spell):
    assert ids.parse_job_id(spell("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")) is None


@pytest.mark.parametrize("text", ["\x00", "a\nb", "é", "x" * 65, "\u200b"])
def test_what_can_be_no_id(text):
    assert not ids.can_be_id(text)
