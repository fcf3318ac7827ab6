"""`manage.py add_upstream <model> <address>`: a model that another server serves."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from casola_site.core.clock import now
from inference.upstreams import Offer, check, serve
from inference.weights import WeightsError


class Command(BaseCommand):
    """See the module's text."""

    help = "Have a model served by an OpenAI-compatible server (vLLM, SGLang, TEI, another Casola)"

    def add_arguments(self, parser: CommandParser) -> None:
        """The model, where it is, what it does."""
        parser.add_argument("model", help="what callers name it")
        parser.add_argument("address", help="such as http://gpu7:8000/v1")
        parser.add_argument(
            "--task",
            action="append",
            default=[],
            help="openai/chat-completion, openai/embeddings …",
        )
        parser.add_argument("--alias", action="append", default=[], help="another name of it")
        parser.add_argument("--name", help="what the upstream calls it, if not the same")
        parser.add_argument("--key-env", help="the environment variable that holds its key")
        parser.add_argument("--key-file", help="the file that holds its key")
        parser.add_argument("--context", type=int, help="most tokens of prompt and answer")
        parser.add_argument("--slots", type=int, default=256, help="most requests at a time")
        parser.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="such as images=true; the values are JSON or text (docs/upstream.md)",
        )
        parser.add_argument("--no-check", action="store_true", help="do not ask it now")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, write, say."""
        given = {"model": "name", "key_env": "key_env", "key_file": "key_file"}
        found = {key: options[name] for key, name in given.items() if options[name]}
        offer = Offer(
            model_id=options["model"],
            source=options["address"],
            tasks=options["task"],
            aliases=options["alias"],
            context=options["context"],
            slots=options["slots"],
            options={**found, **dict(map(_option, options["option"]))},
        )
        try:
            if not options["no_check"]:
                check(offer)
            spec = serve(offer, now=now())
        except WeightsError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{spec.model_id} is served by {spec.source}")


def _option(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not is_given or not name:
        raise CommandError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
