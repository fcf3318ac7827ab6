"""Plain INSERTs write what the ORM would."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction

from casola_site.core import ids
from casola_site.core.insert import insert_rows
from jobs.models import Job
from tests.factories.accounts import make_organization
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
MOMENT = datetime(2026, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)


def job_columns(organization, **columns):
    return {
        "id": ids.job_id(),
        "organization_id": organization.pk,
        "model_id": "test/echo",
        "queue_id": "q",
        "task": "test/echo",
        "units": {"prompt_tokens": 3},
        "error": {"code": "x", "message": 'quotes " and % and é'},
        "created_at": MOMENT,
        **columns,
    }


def usage_columns(organization, number):
    return {
        "job_id": str(number),
        "organization_id": organization.pk,
        "model_id": "test/echo",
        "task": "test/echo",
        "status": "completed",
        "prompt_tokens": 2**40,
        "prices": {"prompt_tokens": ["0.10", 1000]},
        "amount": Decimal("0.123456789"),
        "created_at": MOMENT,
    }


def stored(model, exclude=()):
    names = [f.attname for f in model._meta.concrete_fields if f.name not in exclude]
    return list(model.objects.order_by("pk").values(*names))


def test_a_row_reads_back_as_the_orm_writes_it():
    organization = make_organization()
    columns = job_columns(organization)
    Job.objects.bulk_create([Job(**columns)])
    by_orm = stored(Job)
    Job.objects.all().delete()

    insert_rows(Job, [columns])

    assert stored(Job) == by_orm
    assert Job.objects.filter(result__isnull=True, error__code="x").exists()


def test_decimals_and_generated_keys_read_back_as_the_orm_writes_them():
    organization = make_organization()
    UsageRecord.objects.bulk_create([UsageRecord(**usage_columns(organization, 1))])
    by_orm = stored(UsageRecord, exclude=("id", "public_id"))
    UsageRecord.objects.all().delete()

    insert_rows(UsageRecord, [usage_columns(organization, 1)])

    assert stored(UsageRecord, exclude=("id", "public_id")) == by_orm


def test_callable_defaults_are_asked_for_each_row():
    organization = make_organization()

    insert_rows(UsageRecord, [usage_columns(organization, number) for number in range(3)])

    assert UsageRecord.objects.values("public_id").distinct().count() == 3


def test_many_rows_go_in_as_few_statements_as_the_database_takes(django_assert_num_queries):
    organization = make_organization()
    most = connection.features.max_query_params
    width = len(Job._meta.concrete_fields)
    rows = [job_columns(organization) for _ in range(200)]

    with django_assert_num_queries(1 if not most else -(-200 // (most // width))):
        insert_rows(Job, rows)

    assert Job.objects.count() == 200


def test_no_rows_are_no_statement(django_assert_num_queries):
    with django_assert_num_queries(0):
        insert_rows(Job, [])


def test_a_constraint_refuses_the_whole_group():
    organization = make_organization()
    row = job_columns(organization)

    with pytest.raises(IntegrityError), transaction.atomic():
        insert_rows(Job, [job_columns(organization), row, row])

    assert Job.objects.count() == 0
