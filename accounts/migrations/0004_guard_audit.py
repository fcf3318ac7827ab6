"""The database refuses to change an AuditEvent, and on PostgreSQL to delete one.

SQLite has no TRUNCATE: there a trigger on DELETE would also stop what empties a test's tables, so
deleting is refused by the model alone. SQLite drops triggers when a later migration rebuilds the
table: such a migration must run this one's `forwards` again.
"""

from django.db import migrations

POSTGRESQL = """
CREATE OR REPLACE FUNCTION accounts_guard_audit() RETURNS trigger AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'check_violation';
END $$ LANGUAGE plpgsql;
CREATE TRIGGER accounts_guard_audit BEFORE UPDATE OR DELETE ON accounts_auditevent FOR EACH ROW
    EXECUTE FUNCTION accounts_guard_audit();
"""
SQLITE = """
CREATE TRIGGER accounts_guard_audit BEFORE UPDATE ON accounts_auditevent FOR EACH ROW
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
"""


def forwards(apps, schema_editor):
    vendor = schema_editor.connection.vendor
    schema_editor.execute(POSTGRESQL if vendor == "postgresql" else SQLITE)


def backwards(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP TRIGGER IF EXISTS accounts_guard_audit ON accounts_auditevent")
        schema_editor.execute("DROP FUNCTION IF EXISTS accounts_guard_audit()")
    else:
        schema_editor.execute("DROP TRIGGER IF EXISTS accounts_guard_audit")


class Migration(migrations.Migration):
    dependencies = [("accounts", "0003_invites_transfers_audit")]
    operations = [migrations.RunPython(forwards, backwards)]
