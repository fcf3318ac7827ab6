#!/usr/bin/env python
"""Casola's command line: every process and every operator command starts here."""

import os
import sys


def main() -> None:
    """Run a management command; a wrong setting ends with one sentence, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "casola_site.settings")
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415 - after the setting above
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    try:
        from django.conf import settings  # noqa: PLC0415

        settings.INSTALLED_APPS  # noqa: B018 - reads the settings now
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"casola cannot start: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
