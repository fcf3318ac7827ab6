"""`manage.py pull_model <model>`: real weights for a model, from the hub or from a folder."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from casola_site.core.clock import now
from inference import hosting
from inference.models import ModelSpec
from inference.weights import WeightsError, fetch, find_spec, switch, take_folder

MIB = 1 << 20


class Command(BaseCommand):
    """See the module's text. On a fleet each node needs the files: run it on each of them."""

    help = "Fetch and check real weights, then have the model served by them"

    def add_arguments(self, parser: CommandParser) -> None:
        """The model, where from, and what a new one does."""
        parser.add_argument("model", help="its id or an alias (`manage.py models` lists them)")
        parser.add_argument("--folder", help="a local folder with safetensors weights")
        parser.add_argument("--repository", help="a hub id, when it is not the model's own")
        parser.add_argument("--revision", default="", help="a commit, tag or branch; then pinned")
        parser.add_argument("--task", action="append", default=[], help="of a model that is new")
        parser.add_argument("--engine", default="", help="of a new model, such as `chat`")

    def handle(self, *args: Any, **options: Any) -> None:
        """Get, check, switch."""
        if options["folder"] and (options["repository"] or options["revision"]):
            raise CommandError("--folder takes neither --repository nor --revision")
        try:
            spec = self._spec(options)
            if options["folder"]:
                weights = take_folder(options["folder"])
            else:
                repository = options["repository"] or spec.model_id
                weights = fetch(repository, revision=options["revision"])
            if spec.pk is None:
                spec.source = weights.source
                spec.save()
            switch(spec, weights, now=now(), engine=options["engine"])
        except WeightsError as error:
            raise CommandError(str(error)) from None
        spec.refresh_from_db()
        need = hosting.memory_need(spec)
        where = f"{weights.source} at {weights.revision}" if weights.revision else weights.source
        self.stdout.write(
            f"{spec.model_id}: {where}\n"
            f"{len(weights.manifest)} files, {weights.size / MIB:.1f} MiB, in {weights.folder}\n"
            f"needs about {need.cpu / MIB:.0f} MiB on a CPU, {need.accelerator / MIB:.0f} MiB on a GPU"
        )

    @classmethod
    def _spec(cls, options: dict[str, Any]) -> ModelSpec:
        """The model, or a new one that is not saved yet. Raises WeightsError or CommandError."""
        name, tasks, engine = options["model"], options["task"], options["engine"]
        if not tasks and not engine:
            return cls._with_weights(find_spec(name))
        upstreams = ModelSpec.objects.filter(engine=hosting.UPSTREAM, model_id__iexact=name)
        if not tasks and (spec := upstreams.first()):
            return cls._with_weights(spec, engine)
        if not tasks or not engine:
            raise CommandError("A new model needs --task and --engine")
        if ModelSpec.objects.filter(model_id__iexact=name).exists():
            raise CommandError(f"{name} is there already; leave out --task and --engine")
        return ModelSpec(model_id=name, tasks=tasks, engine=_checked(engine))

    @staticmethod
    def _with_weights(spec: ModelSpec, engine: str = "") -> ModelSpec:
        """A model that an upstream serves needs an engine for its weights."""
        if spec.engine == hosting.UPSTREAM and not engine:
            raise CommandError(
                f"An upstream serves {spec.model_id}; --engine says what runs weights"
            )
        if engine:
            _checked(engine)
        return spec


def _checked(engine: str) -> str:
    known = sorted({*settings.RUNNER_ENGINES} - {hosting.UPSTREAM})
    if engine not in known:
        raise CommandError(f"There is no engine {engine!r}; there are {', '.join(known)}")
    return engine
