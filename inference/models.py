"""Which models there are (ModelSpec), which node holds which (Placement), and the nodes."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from casola_site.core import ids
from inference.enums import PlacementState


class ModelSpec(models.Model):
    """One servable ML model. `model_id` is its public text, `public_id` the row's id."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.spec_id, editable=False)
    model_id = models.CharField(max_length=200, unique=True)
    aliases = models.JSONField(default=list, blank=True)
    fal_slugs = models.JSONField(default=list, blank=True)
    tasks = models.JSONField(default=list)
    engine = models.CharField(max_length=40)
    loaded_as = models.CharField(
        max_length=40,
        blank=True,
        editable=False,
        help_text="How the latest Runner runs it: slots, hybrid or plain",
    )
    source = models.CharField(
        max_length=500, help_text="A local folder (relative to the project) or a hub id"
    )
    revision = models.CharField(max_length=64, blank=True)
    manifest = models.JSONField(
        default=dict,
        editable=False,
        help_text="{file: {size, sha256}} of the folder that was pulled",
    )
    dtype = models.CharField(max_length=12, default="auto")
    device = models.CharField(max_length=20, default="auto")
    context = models.PositiveIntegerField(null=True, blank=True)
    slots = models.PositiveIntegerField(default=32)
    options = models.JSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True)
    is_demo = models.BooleanField(default=False)
    keep_loaded = models.BooleanField(default=False)
    wanted_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.model_id

    @property
    def queue_id(self) -> str:
        """The queue its Jobs wait in."""
        return f"q_{self.public_id}"


class Node(models.Model):
    """A host that runs Runners: its devices and the agent's sign of life."""

    name = models.CharField(max_length=100, unique=True)
    pid = models.PositiveIntegerField(default=0)
    slots = models.PositiveIntegerField(default=0)
    devices = models.JSONField(default=list, help_text="[{name, memory_bytes}]")
    heartbeat_at = models.DateTimeField()
    started_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.name


class Placement(models.Model):
    """A ModelSpec that should be loaded on a node's device share."""

    public_id = models.CharField(
        max_length=40, unique=True, default=ids.placement_id, editable=False
    )
    spec = models.ForeignKey(ModelSpec, on_delete=models.CASCADE, related_name="placements")
    node = models.CharField(max_length=100)
    device = models.CharField(max_length=20)
    memory_bytes = models.PositiveBigIntegerField(default=0)
    state = models.CharField(
        max_length=10, choices=PlacementState.choices, default=PlacementState.WANTED
    )
    enqueued_at = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    detail = models.CharField(max_length=500, blank=True)
    used_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes = (models.Index(fields=("node", "state"), name="placement_of_node"),)
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=PlacementState.values), name="placement_state_known"
            ),
            models.UniqueConstraint(
                fields=("spec", "node"),
                condition=~Q(state=PlacementState.STOPPED),
                name="one_placement_per_node",
            ),
        )

    def __str__(self) -> str:
        return f"{self.spec_id} on {self.node}"
