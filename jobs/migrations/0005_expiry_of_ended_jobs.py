"""Jobs that ended before retention was kept get their Plan's hours, counted from their end."""

from datetime import timedelta

from django.db import migrations
from django.db.models import F


def set_expiry(apps, schema_editor):
    plans = apps.get_model("accounts", "Plan")
    jobs = apps.get_model("jobs", "Job")
    for plan in plans.objects.all():
        ended = jobs.objects.filter(
            organization__plan=plan, lane="persisted", completed_at__isnull=False, expires_at=None
        )
        ended.update(expires_at=F("completed_at") + timedelta(hours=plan.retention_hours))


class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_job_lists_deadlines_retention")]
    operations = [migrations.RunPython(set_expiry, migrations.RunPython.noop)]
