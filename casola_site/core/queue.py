"""The one door to django-q: ordinary background functions and runner hosting."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django_q.models import OrmQ
from django_q.tasks import async_task

RUNNER_PREFIX = "runner:"


def enqueue(function: str, *args: Any, name: str | None = None) -> str:
    """Run `function(*args)` (an import path; ids only) on the default cluster; returns the task id."""
    return async_task(
        function, *args, task_name=name, q_options={"cluster": "default", "save": False}
    )


def cluster_of(node: str) -> str:
    """The django-q cluster that hosts a node's Runners."""
    return f"gpu-{node}"


def host_runner(*, placement_id: str, node: str) -> str:
    """Ask the node's cluster for one endless task that owns the Placement's Runner."""
    return async_task(
        settings.RUNNER_FUNCTION,
        placement_id,
        task_name=f"{RUNNER_PREFIX}{placement_id}",
        q_options={"cluster": cluster_of(node), "timeout": -1, "save": False},
    )


def waiting_tasks(cluster: str) -> int:
    """Tasks not yet taken by the cluster."""
    return OrmQ.objects.filter(key=cluster, lock__isnull=True).count()


def drop_tasks(cluster: str) -> int:
    """Forget every queued task of a cluster (used when a node starts afresh)."""
    return OrmQ.objects.filter(key=cluster).delete()[0]
