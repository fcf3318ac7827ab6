"""The seed's three plans, and the operator's own."""

from django.db import migrations

GB = 1_000_000_000
PLANS = [
    # code, name, api/min, jobs/min, running, queued, streams, sockets, storage, retention hours
    ("free", "Free", 60, 10, 2, 100, 2, 5, GB, 24),
    ("pro", "Pro", 600, 100, 20, 5_000, 20, 50, 50 * GB, 24 * 7),
    ("enterprise", "Enterprise", 6_000, 1_000, 200, 50_000, 100, 500, 1_000 * GB, 24 * 30),
    ("unlimited", "Unlimited", None, None, None, None, None, None, None, 24 * 30),
]
FIELDS = (
    "name",
    "api_requests_per_minute",
    "job_submissions_per_minute",
    "max_running_jobs",
    "max_queued_jobs",
    "max_streams",
    "max_sockets",
    "storage_bytes",
    "retention_hours",
)


def add(apps, schema_editor):
    plan = apps.get_model("accounts", "Plan")
    for code, *values in PLANS:
        plan.objects.get_or_create(code=code, defaults=dict(zip(FIELDS, values, strict=True)))


def remove(apps, schema_editor):
    apps.get_model("accounts", "Plan").objects.filter(code__in=[row[0] for row in PLANS]).delete()


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]
    operations = [migrations.RunPython(add, remove)]
