"""Which model goes where: pure decisions over plain values, the same on every node that asks.

Nothing is ever moved. A model that fits nowhere may have idle ones evicted, the least recently used
first; never a busy one, never one that is to stay loaded. Times are seconds on one clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

GIB = 1024**3
BACKOFF_SECONDS = (0.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
FAILING = 3  # a model that failed to load this often in a row may be evicted


@dataclass(frozen=True, slots=True)
class Spec:
    """A model as placement sees it. `wanted_at` is its latest unanswered demand, or None."""

    id: str
    memory: int
    memory_on_cpu: int
    device: str = "auto"
    enabled: bool = True
    keep_loaded: bool = False
    wanted_at: float | None = None
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A model that holds memory. `leaving`: told to stop, its memory not free yet; `pinned`: to
    stay loaded."""

    id: str
    spec_id: str
    node: str
    device: str
    memory: int
    used_at: float
    busy: bool = False
    leaving: bool = False
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A device's budget in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Host:
    """A living node: its devices and how many models it can host at once."""

    name: str
    slots: int
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Load this model there."""

    spec_id: str
    node: str
    device: str
    memory: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Tell this one to stop."""

    placement_id: str
    node: str
    reason: str


@dataclass(slots=True)
class Plan:
    """What to do now, and why the rest has to wait (by spec id)."""

    actions: list[Place | Evict] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """What to load."""
        return [action for action in self.actions if isinstance(action, Place)]

    @property
    def evicts(self) -> list[Evict]:
        """What to stop."""
        return [action for action in self.actions if isinstance(action, Evict)]


def plan(
    *,
    specs: Iterable[Spec],
    placements: Iterable[Placed],
    hosts: Iterable[Host],
    now: float,
    idle_seconds: float,
) -> Plan:
    """Decide for all living hosts at once; each then does its own part."""
    result = Plan()
    world = _World(hosts, placements)
    known = {spec.id: spec for spec in specs}
    for placed, reason in _overdue(world, known, now, idle_seconds):
        world.evict(placed)
        result.actions.append(Evict(placed.id, placed.node, reason))
    for spec in sorted(known.values(), key=_urgency):
        for _ in range(_missing(spec, world)):
            step = _place(spec, world, now)
            result.actions.extend(step.actions)
            result.reasons.update(step.reasons)
    return result


def backoff_seconds(failures: int) -> float:
    """How long to wait before loading again after so many failures in a row."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A wanted placement of one node, as the loading order sees it."""

    id: str
    loading: bool  # its task waits, was just taken, or its Runner loads
    due: bool  # it has no Runner, and its backoff is over
    failures: int = 0
    wanted_since: float = 0.0


def next_to_load(candidates: Iterable[Candidate]) -> str | None:
    """The one placement to load now; None while another one of the node is loading."""
    waiting = list(candidates)
    if any(candidate.loading for candidate in waiting):
        return None
    due = [candidate for candidate in waiting if candidate.due]
    chosen = min(due, key=lambda c: (c.failures, c.wanted_since, c.id), default=None)
    return chosen.id if chosen else None


class _World:
    """The living hosts and what is on them, as the plan changes it."""

    def __init__(self, hosts: Iterable[Host], placements: Iterable[Placed]) -> None:
        self.hosts = sorted(hosts, key=lambda host: host.name)
        alive = {host.name for host in self.hosts}
        self.placed = sorted((p for p in placements if p.node in alive), key=lambda p: p.id)
        self.new: list[Place] = []
        self.going = {p.id for p in self.placed if p.leaving}

    def staying(self) -> list[Placed]:
        return [p for p in self.placed if p.id not in self.going]

    def evict(self, placed: Placed) -> None:
        self.going.add(placed.id)

    def reserve(self, spec: Spec, host: Host, device: Device, need: int) -> None:
        """Keep what is about to become free from those that come after."""
        self.new.append(Place(spec.id, host.name, device.name, need))

    def memory_used(self, host: str, device: str) -> int:
        """Bytes taken, also by those that are leaving."""
        held: Sequence[Placed | Place] = [*self.placed, *self.new]
        return sum(p.memory for p in held if p.node == host and p.device == device)

    def slots_used(self, host: str) -> int:
        return sum(1 for p in [*self.placed, *self.new] if p.node == host)

    def room(self, host: Host, device: Device, gone: Iterable[str] = ()) -> tuple[int, int]:
        """(bytes, slots) free there once the placements named have gone."""
        away = [p for p in self.placed if p.node == host.name and p.id in set(gone)]
        freed = sum(p.memory for p in away if p.device == device.name)
        return (
            device.memory - self.memory_used(host.name, device.name) + freed,
            host.slots - self.slots_used(host.name) + len(away),
        )

    def holds(self, spec_id: str, host: str) -> bool:
        """Whether the host has this model in any way (one placement per spec and node)."""
        return any(p.spec_id == spec_id and p.node == host for p in [*self.placed, *self.new])


def _overdue(
    world: _World, specs: Mapping[str, Spec], now: float, idle_seconds: float
) -> list[tuple[Placed, str]]:
    """Idle ones that nobody wants any more: disabled, one copy too many, or unused for long."""
    found: list[tuple[Placed, str]] = []
    copies: dict[str, int] = {}
    for placed in sorted(world.staying(), key=lambda p: (not p.busy, -p.used_at, p.id)):
        spec = specs.get(placed.spec_id)
        copies[placed.spec_id] = copies.get(placed.spec_id, 0) + 1
        if placed.busy:
            continue
        if spec is None or not spec.enabled:
            found.append((placed, "disabled"))
        elif copies[placed.spec_id] > spec.copies:
            found.append((placed, "one copy too many"))
        elif (
            not spec.keep_loaded and spec.wanted_at is None and now - placed.used_at > idle_seconds
        ):
            found.append((placed, "idle"))
    return found


def _urgency(spec: Spec) -> tuple[bool, float, str]:
    """Those to keep loaded first, then the longest waiting."""
    return (not spec.keep_loaded, spec.wanted_at if spec.wanted_at is not None else 0.0, spec.id)


def _missing(spec: Spec, world: _World) -> int:
    if not spec.enabled or not (spec.keep_loaded or spec.wanted_at is not None):
        return 0
    present = sum(1 for p in world.staying() if p.spec_id == spec.id)
    return max(0, spec.copies - present)


def _place(spec: Spec, world: _World, now: float) -> Plan:
    """One more copy of the spec: place it, or evict for it, or say why not."""
    spots = _spots(spec, world)
    if not spots:
        return Plan(reasons={spec.id: _no_device(spec, world)})
    spots = [(host, device, need) for host, device, need in spots if need <= device.memory]
    if not spots:
        return Plan(reasons={spec.id: _too_big(spec, world)})
    free = [
        (world.room(host, device)[0] - need, host, device, need)
        for host, device, need in spots
        if _fits(world.room(host, device), need) and not world.holds(spec.id, host.name)
    ]
    if free:
        _, host, device, need = max(
            free, key=lambda f: (f[0], _reversed(f[1].name), _reversed(f[2].name))
        )
        place = Place(spec.id, host.name, device.name, need)
        world.new.append(place)
        return Plan(actions=[place])
    for host, device, need in spots:
        if _fits(world.room(host, device, world.going), need):
            world.reserve(spec, host, device, need)
            return Plan(reasons={spec.id: "waits until another model has left"})
    return _evict_for(spec, spots, world, now)


def _fits(room: tuple[int, int], need: int) -> bool:
    return room[0] >= need and room[1] >= 1


def _reversed(name: str) -> tuple[int, ...]:
    """So that `max` takes the first name in order."""
    return tuple(-ord(letter) for letter in name)


def _spots(spec: Spec, world: _World) -> list[tuple[Host, Device, int]]:
    """Where the spec may go at all, with what it takes there."""
    every = [(host, device) for host in world.hosts for device in host.devices]
    wish = spec.device
    if wish == "auto":
        large_enough = any(d.name != "cpu" and d.memory >= spec.memory for _, d in every)
        every = [(h, d) for h, d in every if (d.name != "cpu") == large_enough]
    else:
        every = [(h, d) for h, d in every if wish in {d.name, d.name.partition(":")[0]}]
    return [(h, d, spec.memory_on_cpu if d.name == "cpu" else spec.memory) for h, d in every]


def _evict_for(
    spec: Spec, spots: list[tuple[Host, Device, int]], world: _World, now: float
) -> Plan:
    """The cheapest set of idle models whose leaving makes room."""
    since = now if spec.keep_loaded or spec.wanted_at is None else spec.wanted_at
    offers = [
        ((len(victims), max(v.used_at for v in victims)), victims, host, device, need)
        for host, device, need in spots
        if (victims := _victims(spec, host, device, need, world, since))
    ]
    if not offers:
        return Plan(reasons={spec.id: "waits until a busy model becomes idle"})
    _, victims, host, device, need = min(offers, key=lambda o: (o[0], o[2].name, o[3].name))
    for victim in victims:
        world.evict(victim)
    world.reserve(spec, host, device, need)
    return Plan(
        actions=[Evict(victim.id, victim.node, "makes room") for victim in victims],
        reasons={spec.id: "waits until another model has left"},
    )


def _victims(
    spec: Spec, host: Host, device: Device, need: int, world: _World, since: float
) -> list[Placed]:
    """Idle models of this device, least recently used first, as few as make room; else none."""
    if any(p.spec_id == spec.id and p.node == host.name for p in world.placed):
        return []
    idle = sorted(
        (p for p in world.staying() if _may_go(p, host, device, since)),
        key=lambda p: (p.used_at, p.id),
    )
    chosen: list[Placed] = []
    for candidate in idle:
        if _fits(world.room(host, device, world.going | {c.id for c in chosen}), need):
            break
        chosen.append(candidate)
    if not _fits(world.room(host, device, world.going | {c.id for c in chosen}), need):
        return []
    for spared in reversed(list(chosen)):
        fewer = [c for c in chosen if c is not spared]
        if _fits(world.room(host, device, world.going | {c.id for c in fewer}), need):
            chosen = fewer
    return chosen


def _may_go(placed: Placed, host: Host, device: Device, since: float) -> bool:
    return (
        placed.node == host.name
        and placed.device == device.name
        and not (placed.busy or placed.pinned)
        and placed.used_at < since
    )


def _no_device(spec: Spec, world: _World) -> str:
    if not world.hosts:
        return "no node is alive"
    return f"no node has the device {spec.device!r}"


def _too_big(spec: Spec, world: _World) -> str:
    sizes = [(need, device.memory) for _, device, need in _spots(spec, world)]
    need, largest = min(n for n, _ in sizes), max(m for _, m in sizes)
    return f"needs {need / GIB:.1f} GiB, the largest device has {largest / GIB:.1f} GiB"
