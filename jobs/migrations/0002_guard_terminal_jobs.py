"""The database refuses any change of status or units of a terminal Job (defence in depth).

Retention may still clear its payloads. SQLite drops triggers when a later migration rebuilds the
table: such a migration must run this one's `forwards` again.
"""

from django.db import migrations

TERMINAL = "('completed', 'failed', 'cancelled')"
POSTGRESQL = f"""
CREATE OR REPLACE FUNCTION jobs_guard_terminal() RETURNS trigger AS $$
BEGIN
    RAISE EXCEPTION 'a terminal job cannot change' USING ERRCODE = 'check_violation';
END $$ LANGUAGE plpgsql;
CREATE TRIGGER jobs_guard_terminal BEFORE UPDATE ON jobs_job FOR EACH ROW
    WHEN (OLD.status IN {TERMINAL}
          AND (NEW.status IS DISTINCT FROM OLD.status OR NEW.units IS DISTINCT FROM OLD.units))
    EXECUTE FUNCTION jobs_guard_terminal();
"""
SQLITE = f"""
CREATE TRIGGER jobs_guard_terminal BEFORE UPDATE ON jobs_job FOR EACH ROW
    WHEN OLD.status IN {TERMINAL}
         AND (NEW.status IS NOT OLD.status OR NEW.units IS NOT OLD.units)
    BEGIN SELECT RAISE(ABORT, 'a terminal job cannot change'); END;
"""


def forwards(apps, schema_editor):
    vendor = schema_editor.connection.vendor
    schema_editor.execute(POSTGRESQL if vendor == "postgresql" else SQLITE)


def backwards(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP TRIGGER IF EXISTS jobs_guard_terminal ON jobs_job")
        schema_editor.execute("DROP FUNCTION IF EXISTS jobs_guard_terminal()")
    else:
        schema_editor.execute("DROP TRIGGER IF EXISTS jobs_guard_terminal")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]
    operations = [migrations.RunPython(forwards, backwards)]
