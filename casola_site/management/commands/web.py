"""``manage.py web``: the web processes on one listening socket."""

import gc
import os
import socket
import sys
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import get_resolver
from django.utils.module_loading import import_string

from casola_site.core.processes import die_with_parent
from casola_site.core.web_processes import PortTakenError, Supervisor, listen


class Command(BaseCommand):
    """Serve the site."""

    help = "Serve the site with one or more web processes."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the settings' address unless told otherwise."""
        parser.add_argument("--host", default=getattr(settings, "HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=int(getattr(settings, "PORT", 8000)))
        workers = int(getattr(settings, "WEB_WORKERS", 1))
        parser.add_argument("--workers", type=int, default=workers)
        parser.add_argument("--fd", type=int, help=SUPPRESS)
        parser.add_argument("--parent", type=int, help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        """Be the parent, or with ``--fd`` one of its children."""
        if options["fd"] is not None:
            serve(options["fd"], options["parent"])
            return
        try:
            listening = listen(options["host"], options["port"])
        except PortTakenError as error:
            raise CommandError(str(error)) from error
        host, port = listening.getsockname()[:2]
        self.stderr.write(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}")
        command = [*_manage(), "web", "--fd", str(listening.fileno()), "--parent", str(os.getpid())]
        sys.exit(Supervisor(command, listening, max(1, options["workers"])).run())


def _manage() -> list[str]:
    """Return how this very command was called."""
    script = sys.argv[0]
    if os.path.basename(script) == "__main__.py":
        return [sys.executable, "-m", "django"]
    return [sys.executable, script]


def serve(fd: int, parent: int | None) -> None:
    """Serve on the inherited socket until a signal; does not return."""
    if parent is not None:
        die_with_parent(parent)
    # Here, not at the top: the parent serves nothing and needs no reactor.
    from casola_site.core.guard.server import GuardedServer  # noqa: PLC0415

    application = import_string(settings.ASGI_APPLICATION)
    default = "casola_site.guard_config.build"
    config = import_string(getattr(settings, "GUARD_CONFIG", default))()
    if hasattr(settings, "ROOT_URLCONF"):
        get_resolver().url_patterns  # noqa: B018 - loads every view now, not with the first request
    gc.collect()
    gc.freeze()  # what is loaded now stays: the collector need not look at it again
    GuardedServer(application, config, sockets=[socket.socket(fileno=fd)]).run()
    sys.stdout.flush()
    sys.stderr.flush()
    # A sync view that still hangs in a thread must not hold the process.
    os._exit(0)
