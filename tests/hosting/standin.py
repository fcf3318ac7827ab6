"""Stands in for the runner: registers a Runner row, heartbeats, and returns when told to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from django.conf import settings

from casola_site.core import processes
from inference import stopping
from inference.enums import PlacementState
from inference.models import Placement
from jobs import leases
from jobs.enums import HOLDS_LEASE, RunnerState
from jobs.models import Runner


def serve(placement_id: str, **_: object) -> None:
    """Own the placement's Runner until the node stops, the placement is to leave, or it is fenced."""
    row = Placement.objects.select_related("spec").get(public_id=placement_id)
    options = row.spec.options
    runner = leases.register_runner(
        placement_id=placement_id,
        queue_id=row.spec.queue_id,
        model_id=row.spec.model_id,
        node=row.node,
        pid=os.getpid(),
        pid_start=processes.own_start(),
        state=RunnerState.LOADING,
    )
    if options.get("fail"):
        Runner.objects.filter(pk=runner.pk).update(
            state=RunnerState.DEAD, detail="cannot be loaded"
        )
        return
    detail = _child(options.get("child"))
    if options.get("torch"):
        detail = _multiply()
    time.sleep(options.get("load_seconds", 0))
    leases.heartbeat(runner_id=runner.pk, state=RunnerState.LIVE, detail=detail)
    try:
        while _wanted(placement_id) and not (stopping.stop_requested() and not options.get("deaf")):
            leases.heartbeat(runner_id=runner.pk)
            time.sleep(0.1)
    except leases.LeaseLost:
        return
    Runner.objects.filter(pk=runner.pk, state__in=HOLDS_LEASE).update(state=RunnerState.STOPPED)


def _wanted(placement_id: str) -> bool:
    return Placement.objects.filter(public_id=placement_id, state=PlacementState.WANTED).exists()


def _child(kind: str | None) -> str:
    """A child of the worker: by multiprocessing (spawn), or in a session of its own."""
    if kind == "session":
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        return str(child.pid)
    if kind == "spawn":
        import multiprocessing

        child = multiprocessing.get_context("spawn").Process(
            target=time.sleep, args=(600,), daemon=True
        )
        child.start()
        return str(child.pid)
    return ""


def _multiply() -> str:
    if "torch" in sys.modules:
        return "torch was imported before the fork"
    import torch

    return f"{torch.ones(200, 200).matmul(torch.ones(200, 200)).sum().item():.0f}"


def write(name: str) -> None:
    """A background function that leaves a file with its name and cluster."""
    Path(settings.VAR_DIR, name).write_text(f"{settings.Q_CLUSTER_NAME} {os.getpid()}")


def fail(reason: str) -> None:
    """A background function that cannot do it."""
    raise RuntimeError(reason)


def sleep(name: str, seconds: float) -> None:
    """A background function that takes its time, and counts how often it began."""
    with Path(settings.VAR_DIR, name).open("a") as file:
        file.write("began\n")
    time.sleep(seconds)
    with Path(settings.VAR_DIR, name).open("a") as file:
        file.write("ended\n")
