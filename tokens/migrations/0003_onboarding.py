"""Which token was made for its member when they arrived: one each, whatever comes at once."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_guard_audit"),
        ("tokens", "0002_rotation"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]
    operations = [
        migrations.AddField(
            "apitoken",
            "is_onboarding",
            models.BooleanField(
                default=False, editable=False, help_text="Made for its member when they arrived"
            ),
        ),
        migrations.AddConstraint(
            "apitoken",
            models.UniqueConstraint(
                fields=("organization", "created_by"),
                condition=models.Q(is_onboarding=True),
                name="one_onboarding_token",
            ),
        ),
    ]
