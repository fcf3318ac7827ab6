"""WSGI entry (management pages only; waiting and streaming need ASGI)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "casola_site.settings")
application = get_wsgi_application()
