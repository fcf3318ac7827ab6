"""Background functions of inference, named in the queue by import path."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from typing import Any

from django.conf import settings

from casola_site.core import processes
from inference import estimates
from inference.execution import RunnerHost
from inference.hosting import record_engine
from inference.keeper import Keeper
from inference.models import ModelSpec, Placement
from inference.runners.base import Depends, LoadError, RunnerConfig
from inference.runners.registry import runner_class
from inference.voices import make_previews
from jobs.leases import fence_runner, register_runner

logger = logging.getLogger(__name__)

# How long a thread may keep the interpreter from the engine's: requests are prepared beside it.
SWITCH_SECONDS = 0.0005


def runner_config(spec: ModelSpec, *, device: str, memory_budget: int | None) -> RunnerConfig:
    """What the Runner of a ModelSpec needs to load."""
    folder = estimates.find_folder(
        spec.source,
        base=settings.BASE_DIR,
        hub=estimates.hub_folder(),
        revision=spec.revision,
    )
    return RunnerConfig(
        model_id=spec.model_id,
        path=spec.source if folder is None else str(folder),
        device=device,
        dtype=spec.dtype,
        max_context=spec.context,
        slots=spec.slots,
        memory_budget=memory_budget,
        options=dict(spec.options),
        tasks=tuple(spec.tasks),
    )


def run_placement(placement_id: str, **_: Any) -> None:
    """The endless task that owns one Placement's Runner; returns when drained or told to stop."""
    placement = Placement.objects.select_related("spec").filter(public_id=placement_id).first()
    if placement is None:
        return
    sys.setswitchinterval(SWITCH_SECONDS)
    spec = placement.spec
    row = register_runner(
        placement_id=placement_id,
        queue_id=spec.queue_id,
        model_id=spec.model_id,
        node=placement.node,
        pid=os.getpid(),
        pid_start=processes.own_start(),
        capacity=spec.slots,
    )
    keeper = Keeper(row=row, placement_id=placement_id)
    keeper.start()
    detail = ""
    try:
        if spec.engine not in settings.RUNNER_ENGINES:
            raise LoadError(f"This installation has no engine {spec.engine!r}")  # noqa: TRY301
        config = runner_config(
            spec, device=placement.device, memory_budget=placement.memory_bytes or None
        )
        runner = runner_class(spec.engine)(config)
        runner.on_fatal(keeper.abort)
        if isinstance(runner, Depends):
            runner.on_away(keeper.leave)
        memory = runner.load(keeper.progress)
        keeper.report_memory(memory.total)
        record_engine(spec=spec, loaded_as=runner.describe())
        threading.Thread(target=make_previews, args=(spec, runner), daemon=True).start()
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it again
        RunnerHost(spec=spec, runner=runner, row=row, keeper=keeper).run()
        detail = keeper.left_because
    except LoadError as error:
        detail = str(error)
        logger.error("cannot load %s: %s", spec.model_id, detail)  # noqa: TRY400 - the text is meant for staff
    finally:
        keeper.close()
        fence_runner(runner_id=row.pk, crashed=False, detail=detail)
