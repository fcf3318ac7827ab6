"""Services around hosting: demand for models, what each node should hold, and what users see.

Every agent plans for all living nodes from the same rows (inference/placement.py) and does only its
own node's part, under a lock on the specs concerned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import CharField, Exists, F, Max, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Concat, Now

from accounts.models import OrganizationStatus
from inference import estimates, placement
from inference.enums import Availability, PlacementState
from inference.models import ModelSpec, Node, Placement
from jobs.enums import HOLDS_LEASE, JobStatus, RunnerState
from jobs.leases import ago
from jobs.models import Job, Runner

logger = logging.getLogger(__name__)

NODE_SECONDS = 15  # a node silent for this long is not alive
DEMAND_SECONDS = 5  # demand is written at most this often
WARMING_SECONDS = 60  # demand this fresh shows as warming up
DEFAULT_COPIES = 1
UPSTREAM = "upstream"  # the engine of models that are served elsewhere: no device is needed

_told: dict[str, datetime] = {}


def want_model(*, spec_id: str, now: datetime) -> bool:
    """Record that somebody asked for the model; returns whether it was written.

    At most one write per few seconds and process; cheap enough for every request.
    """
    last = _told.get(spec_id)
    if last is not None and timedelta(0) <= now - last < timedelta(seconds=DEMAND_SECONDS):
        return False
    _told[spec_id] = now
    return (
        ModelSpec.objects.filter(public_id=spec_id)
        .filter(Q(wanted_at=None) | Q(wanted_at__lt=ago(DEMAND_SECONDS)))
        .update(wanted_at=Now())
        > 0
    )


def beat(*, node: str, pid: int, slots: int, devices: list[dict[str, Any]]) -> datetime:
    """The agent's sign of life; returns the database's time."""
    columns = {"pid": pid, "slots": slots, "devices": devices, "heartbeat_at": Now()}
    if not Node.objects.filter(name=node).update(**columns):
        Node.objects.create(name=node, **columns)
    return Node.objects.values_list("heartbeat_at", flat=True).get(name=node)


def alive_nodes() -> QuerySet[Node]:
    """Nodes whose agent was heard lately."""
    return Node.objects.filter(heartbeat_at__gt=ago(NODE_SECONDS))


def reconcile(*, node: str, now: datetime) -> dict[str, str]:
    """Do this node's part of the plan. Returns why wanted specs are not placed, by spec id."""
    plan = make_plan(now=now)
    if not _part_of(plan, node):
        return plan.reasons
    with transaction.atomic():
        # The same lock for every agent, so that two nodes do not place the same spec.
        list(ModelSpec.objects.select_for_update().order_by("pk").values_list("pk", flat=True))
        plan = make_plan(now=now)
        for action in _part_of(plan, node):
            _apply(action, now)
    return plan.reasons


def _part_of(plan: placement.Plan, node: str) -> list[placement.Place | placement.Evict]:
    return [action for action in plan.actions if action.node == node]


def _apply(action: placement.Place | placement.Evict, now: datetime) -> None:
    if isinstance(action, placement.Evict):
        stop_placement(placement_id=action.placement_id, reason=action.reason, now=now)
        return
    spec = ModelSpec.objects.get(public_id=action.spec_id)
    Placement.objects.create(
        spec=spec, node=action.node, device=action.device, memory_bytes=action.memory, used_at=now
    )
    logger.info("place %s on %s %s", spec.model_id, action.node, action.device)


def stop_placement(*, placement_id: str, reason: str, now: datetime) -> bool:
    """Tell a placement to drain and leave; False when it is leaving already."""
    wanted = Placement.objects.filter(public_id=placement_id, state=PlacementState.WANTED)
    changed = wanted.update(state=PlacementState.STOPPING, detail=reason[:500], used_at=now) == 1
    if changed:
        logger.info("stop %s: %s", placement_id, reason)
    return changed


def finish_placement(*, placement_id: str) -> bool:
    """Its process is gone and its memory free. Earlier rows of the same spec and node are forgotten."""
    row = Placement.objects.filter(public_id=placement_id, state=PlacementState.STOPPING).first()
    if row is None:
        return False
    Placement.objects.filter(spec=row.spec_id, node=row.node, state=PlacementState.STOPPED).delete()
    return Placement.objects.filter(pk=row.pk).update(state=PlacementState.STOPPED) == 1


def make_plan(*, now: datetime) -> placement.Plan:
    """The plan for all living nodes from what the database says now."""
    hosts = [_host(node) for node in alive_nodes()]
    alive = {host.name for host in hosts}
    specs = list(specs_with_demand())
    active = list(
        Placement.objects.exclude(state=PlacementState.STOPPED)
        .filter(node__in=alive)
        .select_related("spec")
    )
    runners = {runner.placement_id: runner for runner in lease_holders().filter(node__in=alive)}
    pending = {spec.pk for spec in specs if spec.has_pending}
    return placement.plan(
        specs=[_spec(spec, now) for spec in specs],
        placements=[
            _placed(p, runners.get(p.public_id), p.spec_id in pending, now) for p in active
        ],
        hosts=hosts,
        now=now.timestamp(),
        idle_seconds=settings.IDLE_UNLOAD_SECONDS,
    )


def lease_holders() -> QuerySet[Runner]:
    """Runners that may still work."""
    return Runner.objects.filter(state__in=HOLDS_LEASE)


def specs_with_demand() -> QuerySet[Any]:
    """Every spec with `has_pending` (Jobs wait for it) and `left_at` (when it was last stopped).

    Jobs of suspended Organizations wait for something else.
    """
    queue = Concat(Value("q_"), OuterRef("public_id"), output_field=CharField())
    waiting = Job.objects.filter(
        status=JobStatus.PENDING,
        queue_id=queue,
        organization__status=OrganizationStatus.ACTIVE,
    )
    stopped = Q(placements__state__in=(PlacementState.STOPPED, PlacementState.STOPPING))
    return ModelSpec.objects.annotate(
        has_pending=Exists(waiting), left_at=Max("placements__used_at", filter=stopped)
    ).order_by("pk")


def _host(node: Node) -> placement.Host:
    devices = tuple(placement.Device(d["name"], int(d["memory_bytes"])) for d in node.devices)
    return placement.Host(node.name, node.slots, devices)


def _spec(spec: Any, now: datetime) -> placement.Spec:
    need = memory_need(spec)
    return placement.Spec(
        id=spec.public_id,
        memory=need.accelerator,
        memory_on_cpu=need.cpu,
        device="cpu" if spec.engine == UPSTREAM else spec.device or "auto",
        enabled=spec.enabled,
        keep_loaded=spec.keep_loaded,
        wanted_at=_demand(spec, now),
        copies=_copies(spec),
    )


def _copies(spec: ModelSpec) -> int:
    copies = spec.options.get("copies", DEFAULT_COPIES)
    return copies if isinstance(copies, int) and copies > 0 else DEFAULT_COPIES


def _demand(spec: Any, now: datetime) -> float | None:
    """The spec's demand that no placement has answered yet and that is not too old."""
    if spec.has_pending:
        return now.timestamp()
    wanted = spec.wanted_at
    if wanted is None or (now - wanted).total_seconds() > settings.IDLE_UNLOAD_SECONDS:
        return None
    if spec.left_at is not None and wanted <= spec.left_at:
        return None
    return wanted.timestamp()


def _placed(
    row: Placement, runner: Runner | None, pending: bool, now: datetime
) -> placement.Placed:
    """A row as the plan sees it. One that loads is busy; one that fails to load is not."""
    loading = runner is None or runner.state == RunnerState.LOADING
    working = pending or (runner is not None and runner.outstanding > 0)
    failing = row.failures >= placement.FAILING
    used = [
        row.used_at,
        *([row.spec.wanted_at] if row.spec.wanted_at else []),
        *([now] if working else []),
    ]
    return placement.Placed(
        id=row.public_id,
        spec_id=row.spec.public_id,
        node=row.node,
        device=row.device,
        memory=row.memory_bytes,
        used_at=(row.used_at if failing else max(used)).timestamp(),
        busy=(loading or working) and not failing,
        leaving=row.state == PlacementState.STOPPING,
        pinned=row.spec.keep_loaded and not failing,
    )


def memory_need(spec: ModelSpec) -> estimates.Need:
    """What the spec will take: the operator's `memory_mb` option, else judged by its files."""
    fixed = spec.options.get("memory_mb")
    if isinstance(fixed, int) and fixed > 0:
        return estimates.Need(fixed * estimates.MIB, fixed * estimates.MIB)
    if spec.engine == UPSTREAM:
        return estimates.Need(estimates.UPSTREAM_BYTES, estimates.UPSTREAM_BYTES)
    folder = estimates.find_folder(
        spec.source,
        base=Path(settings.BASE_DIR),
        hub=estimates.hub_folder(),
        revision=spec.revision,
    )
    if spec.engine == "images":
        return estimates.estimate_pictures(folder, dtype=spec.dtype, options=spec.options)
    if spec.engine == "video":
        return estimates.estimate_films(folder, dtype=spec.dtype, options=spec.options)
    if spec.engine in estimates.STEP_TOKENS:
        return estimates.estimate_batch(folder, dtype=spec.dtype, engine=spec.engine)
    return estimates.estimate(folder, dtype=spec.dtype, slots=spec.slots, context=spec.context)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the agent learned of a placement's Runner."""

    placement_id: str
    memory_bytes: int
    outstanding: int


def record_progress(*, progress: Iterable[Progress], now: datetime) -> None:
    """Keep the measured memory and the last use of each placement."""
    for entry in progress:
        row = Placement.objects.filter(public_id=entry.placement_id)
        if entry.memory_bytes:
            row.exclude(memory_bytes=entry.memory_bytes).update(memory_bytes=entry.memory_bytes)
        if entry.outstanding:
            row.filter(
                state=PlacementState.WANTED, used_at__lt=now - timedelta(seconds=DEMAND_SECONDS)
            ).update(used_at=now)


def record_engine(*, spec: ModelSpec, loaded_as: str) -> None:
    """Keep how the Runner says it runs the model."""
    row = ModelSpec.objects.filter(pk=spec.pk)
    row.exclude(loaded_as=loaded_as).update(loaded_as=loaded_as)


def count_failure(*, placement_id: str, detail: str) -> None:
    """Its Runner ended although it is wanted."""
    Placement.objects.filter(public_id=placement_id).update(
        failures=F("failures") + 1, detail=detail[:500]
    )


def forgive_failures(*, placement_id: str) -> None:
    """Its Runner has served for a while: what failed before does not count any more."""
    Placement.objects.filter(public_id=placement_id, failures__gt=0).update(failures=0, detail="")


def availability(spec: ModelSpec) -> Availability:
    """What users see about this model."""
    return availabilities([spec])[spec.public_id]


def availabilities(specs: Iterable[ModelSpec]) -> dict[str, Availability]:
    """The same for many, by spec id; three queries whatever their number."""
    some_node = alive_nodes().exists()
    fresh = lease_holders().filter(heartbeat_at__gt=ago(settings.LEASE_SECONDS))
    states: dict[str, set[str]] = {}
    for queue_id, state in fresh.values_list("queue_id", "state"):
        states.setdefault(queue_id, set()).add(state)
    nodes = alive_nodes().values("name")
    wanted = Placement.objects.filter(state=PlacementState.WANTED, node__in=nodes)
    failures = dict(wanted.order_by("-failures").values_list("spec_id", "failures"))
    recent = set(
        ModelSpec.objects.filter(wanted_at__gt=ago(WARMING_SECONDS)).values_list("pk", flat=True)
    )
    return {
        spec.public_id: _availability(
            spec,
            states.get(spec.queue_id, set()),
            spec.pk in failures or spec.pk in recent,
            some_node and failures.get(spec.pk, 0) < placement.FAILING,
        )
        for spec in specs
    }


def is_failing(*, spec_id: str) -> bool:
    """Whether every node that should hold the model keeps failing to load it."""
    wanted = Placement.objects.filter(
        state=PlacementState.WANTED, spec__public_id=spec_id, node__in=alive_nodes().values("name")
    )
    failures = list(wanted.values_list("failures", flat=True))
    return bool(failures) and min(failures) >= placement.FAILING


def _availability(spec: ModelSpec, states: set[str], coming: bool, can_load: bool) -> Availability:
    if not spec.enabled:
        return Availability.OFFLINE
    if RunnerState.LIVE in states:
        return Availability.ONLINE
    if not can_load:
        return Availability.OFFLINE
    if RunnerState.LOADING in states or coming:
        return Availability.WARMING_UP
    return Availability.STANDBY
