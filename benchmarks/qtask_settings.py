"""A plain django-q2 cluster, as its documentation sets one up: the q-task per request."""

import os

from casola_site.settings.test import *  # noqa: F403

Q_CLUSTER_NAME = "qtasks"
Q_CLUSTER = {
    "name": "qtasks",
    "orm": "default",
    "workers": int(os.environ.get("QTASK_WORKERS", "4")),
    "timeout": 60,
    "retry": 120,
    "save_limit": -1,
    "ack_failures": True,
    "scheduler": False,
}
