"""Settings of the qnodes that the live tests start: a stand-in runner, and times made short."""

from casola_site.settings import environment as env
from casola_site.settings.test import *  # noqa: F403

RUNNER_FUNCTION = env.text("TEST_RUNNER_FUNCTION", "tests.hosting.standin.serve")
RUNNER_SLOTS = env.integer("RUNNER_SLOTS", 3, low=1, high=64)
DRAIN_SECONDS = env.integer("DRAIN_SECONDS", 5, low=0, high=600)
RUNNER_START_SECONDS = env.integer("TEST_START_SECONDS", 5, low=1, high=60)
Q_CLUSTER = {
    **Q_CLUSTER,  # noqa: F405
    "retry": env.integer("TEST_RETRY", 900, low=1, high=900),
    "timeout": env.integer("TEST_TIMEOUT", 600, low=1, high=899),
}
if Q_CLUSTER_NAME.startswith("gpu-"):  # noqa: F405
    Q_CLUSTER["workers"] = RUNNER_SLOTS
