"""The Casola the tests talk to: one database, two web processes, one qnode, two organizations."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.live import Live, wait_until
from tests.servers import free_port

PACED_MS = 100
PACED_TOKENS = 10
DEMO = "Qwen/Qwen3.5-4B"
DEMO_WEIGHTS = Path(__file__).parents[2] / "inference/demo/weights/chat"

# One process start for everything that HTTP cannot make.
SET_UP = """
import json
from datetime import timedelta
from django.utils import timezone
from accounts.models import Membership, Organization, Plan, User
from accounts.services import create_organization
from inference.catalog import DEMO_ECHO
from inference.models import ModelSpec
from tokens.models import ApiToken
from tokens.services import issue_token
from usage.models import Price

now = timezone.now()
ModelSpec.objects.create(**{**DEMO_ECHO, "model_id": "test/paced", "aliases": [],
    "options": {"token_ms": PACED_MS, "tokens": PACED_TOKENS}})
Price.objects.create(model_id="test/paced", unit="completion_tokens", amount=1, per=1,
    valid_from=now - timedelta(days=1))
ModelSpec.objects.create(**{**DEMO_ECHO, "model_id": "test/mirror", "aliases": [],
    "options": {"mode": "echo", "token_ms": 20}})
ModelSpec.objects.create(**{**DEMO_ECHO, "model_id": "test/away", "aliases": [], "enabled": False})
User.objects.create_superuser("root@example.com", "a long password")

Plan.objects.create(code="tiny", name="Tiny", max_running_jobs=2, max_streams=1, max_queued_jobs=3,
    max_sockets=2)
Plan.objects.create(code="full", name="Full", storage_bytes=1)

def organization(name, plan="unlimited", **tokens):
    row, owner = create_organization(
        name=name, plan_code=plan, owner_email=f"{name}@example.com")
    out = {"id": row.public_id}
    for label, options in tokens.items():
        token, secret = issue_token(
            organization=row, created_by=owner, name=label, now=now, **options)
        out[label] = secret
        out[label + "_id"] = token.public_id
    return out

def member(name, label, role):
    row = Organization.objects.get(public_id=made[name]["id"])
    user = User.objects.create_user(f"{label}@example.com")
    Membership.objects.create(organization=row, user=user, role=role)
    _, made[name][label] = issue_token(organization=row, created_by=user, name=label,
        scopes=["user:write"], now=now)
    made[name][label + "_user"] = user.public_id

def scoped(word):
    return {"scopes": [word]}

each = {"user_read": scoped("user:read"), "user_write": scoped("user:write"),
    "admin_read": scoped("admin:read"), "admin_write": scoped("admin:write")}
made = {
    "alpha": organization("alpha", **each,
        narrow={"scopes": ["admin:write"], "allowed_models": ["test/echo"]},
        elsewhere={"scopes": ["user:write"], "allowed_ips": ["203.0.113.0/24"]},
        here={"scopes": ["user:write"], "allowed_ips": ["127.0.0.0/8"]},
        expired=scoped("user:write"), soon=scoped("user:write")),
    "beta": organization("beta", **each),
    "free": organization("free", "free", one=scoped("admin:write"), two=scoped("user:write")),
    "tiny": organization("tiny", "tiny", one=scoped("admin:write"), two=scoped("user:write")),
    "full": organization("full", "full", one=scoped("user:write")),
    "spare": organization("spare", "free", one=scoped("admin:write")),
    "counted": organization("counted", "free", one=scoped("admin:write")),
    "stopped": organization("stopped", one=scoped("admin:write")),
    "team": organization("team", one=scoped("admin:write")),
}
member("team", "demoted", "member")
member("team", "disabled", "member")
member("team", "removed", "member")
member("team", "kept", "member")
ApiToken.objects.filter(public_id=made["alpha"]["expired_id"]).update(
    expires_at=now - timedelta(seconds=1))
Organization.objects.filter(public_id=made["stopped"]["id"]).update(status="suspended")
print(json.dumps(made))
"""


@dataclass
class Site:
    """A started Live with a second web process on its own port."""

    live: Live
    second_port: int
    made: dict[str, dict[str, str]]

    @property
    def url(self) -> str:
        """Base of the first web process."""
        return self.live.url

    @property
    def urls(self) -> tuple[str, str]:
        """Bases of both."""
        return self.live.url, f"http://127.0.0.1:{self.second_port}"

    def __getattr__(self, name: str) -> dict[str, str]:
        """An organization: its id, its secrets by label, their ids."""
        try:
            return self.made[name]
        except KeyError:
            raise AttributeError(name) from None

    def web_process(self) -> psutil.Process:
        """The process that serves the first port."""
        return psutil.Process(self.live.processes["web"].pid).children()[0]


@contextlib.contextmanager
def site(folder: Path, **options: Any) -> Iterator[Site]:
    """Start it; nothing of it is left afterwards."""
    options.setdefault("environment", {"RUNNER_SLOTS": "11"})
    live = Live.from_environment(folder, **options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        live.port = free_port()
        live.manage("migrate", "-v0")
        live.manage("ensure_demo")
        code = f"PACED_MS, PACED_TOKENS = {PACED_MS}, {PACED_TOKENS}\n{SET_UP}"
        made = json.loads(live.python(code).splitlines()[-1])
        second = free_port()
        live.start_process("gpu", "qnode", f"gpu-{live.node}")
        live.start_process("web", "web")
        live.start_process("web2", "web", "--port", str(second))
        live.wait_ready()
        live.wait_ready("test/paced")
        live.wait_ready("test/mirror")
        found = Site(live, second, made)
        wait_until(lambda: live.get("/livez").status_code == 200)
        yield found
    finally:
        for process in live.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        live.stop()
