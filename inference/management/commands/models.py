"""`manage.py models`: which models there are, and what an operator does with one of them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from casola_site.core.clock import now
from inference import hosting
from inference.enums import PlacementState
from inference.models import ModelSpec, Placement
from inference.weights import WeightsError, differences, find_spec, set_enabled, set_kept

HEADS = ("MODEL", "STATUS", "ENGINE", "WHERE", "SOURCE", "TASKS")


class Command(BaseCommand):
    """Without an action it lists."""

    help = "List models; enable, disable, place, unload or verify one"

    def add_arguments(self, parser: CommandParser) -> None:
        """An action and its model."""
        parser.add_argument(
            "action",
            nargs="?",
            default="list",
            choices=["list", "enable", "disable", "place", "unload", "verify"],
            help="place: load it and keep it loaded; unload: until somebody asks for it; "
            "verify: compare its files with the manifest of when they were pulled",
        )
        parser.add_argument("model", nargs="?", help="its id or an alias")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        action, name = options["action"], options["model"]
        if action == "list":
            self._list()
            return
        if not name:
            raise CommandError(f"`models {action}` needs a model")
        try:
            self.stdout.write(self._act(action, find_spec(name)))
        except WeightsError as error:
            raise CommandError(str(error)) from None

    def _act(self, action: str, spec: ModelSpec) -> str:
        match action:
            case "enable" | "disable":
                set_enabled(spec, action == "enable", now=now())
                return f"{spec.model_id} is {action}d"
            case "place":
                set_kept(spec, True, now=now())
                return f"{spec.model_id} will be loaded and stays loaded"
            case "unload":
                set_kept(spec, False, now=now())
                return f"{spec.model_id} is let go"
        found = differences(spec)
        if found:
            raise CommandError("\n".join([f"{spec.model_id} is not what was pulled:", *found]))
        return f"{spec.model_id}: {len(spec.manifest)} files are as they were pulled"

    def _list(self) -> None:
        specs = list(ModelSpec.objects.order_by("model_id"))
        status = hosting.availabilities(specs)
        nodes: dict[int, list[str]] = {}
        for placement in Placement.objects.filter(state=PlacementState.WANTED).order_by("node"):
            nodes.setdefault(placement.spec_id, []).append(f"{placement.node}:{placement.device}")
        rows = [HEADS] + [
            (
                spec.model_id + (" (demo)" if spec.is_demo else ""),
                str(status[spec.public_id]),
                spec.engine,
                ",".join(nodes.get(spec.pk, [])) or "-",
                spec.source + (f"@{spec.revision[:12]}" if spec.revision else "") or "-",
                ",".join(spec.tasks),
            )
            for spec in specs
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.stdout.write("  ".join(cells).rstrip())
