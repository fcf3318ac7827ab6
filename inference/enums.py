"""States of a Placement and words for a model's availability."""

from django.db import models


class PlacementState(models.TextChoices):
    """What the node should do with it."""

    WANTED = "wanted"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Availability(models.TextChoices):
    """What users see about a model."""

    ONLINE = "online"
    WARMING_UP = "warming_up"
    STANDBY = "standby"
    OFFLINE = "offline"
