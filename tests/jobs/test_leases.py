"""Leases on the database's clock: renewed, lost, swept."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from jobs.enums import RunnerState
from jobs.leases import LeaseLost, Swept, ago, fence_expired, fence_runner, heartbeat, sweep
from jobs.models import Job, Runner
from tests.factories.jobs import make_runner, make_running_job
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def age(runner, seconds) -> None:
    """Let the last heartbeat lie so far back."""
    Runner.objects.filter(pk=runner.pk).update(heartbeat_at=ago(seconds))


def is_expired(runner) -> bool:
    return Runner.objects.filter(
        pk=runner.pk, heartbeat_at__lt=ago(settings.LEASE_SECONDS)
    ).exists()


def test_a_heartbeat_renews_the_lease_and_keeps_news():
    runner = make_runner()
    age(runner, settings.LEASE_SECONDS + 5)
    assert is_expired(runner)

    heartbeat(runner_id=runner.pk, outstanding=3)

    assert not is_expired(runner)
    runner.refresh_from_db()
    assert runner.outstanding == 3


@pytest.mark.parametrize("state", [RunnerState.DEAD, RunnerState.STOPPED])
def test_a_fenced_runner_has_lost_its_lease(state):
    runner = make_runner(state=state)
    with pytest.raises(LeaseLost):
        heartbeat(runner_id=runner.pk)


def test_a_runner_without_a_row_has_lost_its_lease():
    with pytest.raises(LeaseLost):
        heartbeat(runner_id=0)


def test_a_heartbeat_cannot_bring_a_fenced_runner_back():
    runner = make_runner()
    fence_runner(runner_id=runner.pk, crashed=True)

    with pytest.raises(LeaseLost):
        heartbeat(runner_id=runner.pk, state=RunnerState.LIVE)

    runner.refresh_from_db()
    assert runner.state == RunnerState.DEAD


@pytest.mark.parametrize("state", [RunnerState.LOADING, RunnerState.LIVE, RunnerState.DRAINING])
def test_a_sweep_fences_only_what_is_over(state):
    over, fresh = make_runner(state=state), make_runner(state=state)
    age(over, settings.LEASE_SECONDS + 1)
    age(fresh, settings.LEASE_SECONDS - 5)
    lost, kept = make_running_job(runner=over), make_running_job(runner=fresh)

    assert sweep() == Swept(runners=1, requeued=1, failed=0)

    over.refresh_from_db()
    fresh.refresh_from_db()
    assert (over.state, fresh.state) == (RunnerState.DEAD, state)
    assert (over.detail, over.ended_at is not None) == ("lease expired", True)
    lost.refresh_from_db()
    kept.refresh_from_db()
    assert (lost.status, lost.crashes) == ("pending", 1)
    assert (kept.status, kept.crashes) == ("processing", 0)


def test_a_second_sweep_finds_nothing():
    runner = make_runner()
    age(runner, settings.LEASE_SECONDS + 1)
    sweep()

    assert sweep() == Swept(0, 0, 0)


def test_a_sweep_reports_what_it_failed():
    runner = make_runner()
    age(runner, settings.LEASE_SECONDS + 1)
    make_running_job(runner=runner, crashes=2)
    make_running_job(runner=runner)

    assert sweep() == Swept(runners=1, requeued=1, failed=1)
    assert UsageRecord.objects.count() == 1


def test_a_heartbeat_that_comes_during_the_sweep_saves_the_runner(monkeypatch):
    runner = make_runner()
    age(runner, settings.LEASE_SECONDS + 1)
    job = make_running_job(runner=runner)
    real = fence_expired

    def after_a_heartbeat(runner_id):
        heartbeat(runner_id=runner_id)
        return real(runner_id)

    monkeypatch.setattr("jobs.leases.fence_expired", after_a_heartbeat)

    assert sweep() == Swept(0, 0, 0)
    job.refresh_from_db()
    assert job.status == "processing"


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_clock_of_the_process_does_not_matter(monkeypatch, hours):
    real_time, real_now = time.time, timezone.now
    monkeypatch.setattr(time, "time", lambda: real_time() + hours * 3600)
    monkeypatch.setattr(timezone, "now", lambda: real_now() + timedelta(hours=hours))
    fresh, over = make_runner(), make_runner()
    age(over, settings.LEASE_SECONDS + 1)
    heartbeat(runner_id=fresh.pk)

    assert sweep().runners == 1

    fresh.refresh_from_db()
    over.refresh_from_db()
    assert (fresh.state, over.state) == (RunnerState.LIVE, RunnerState.DEAD)


@pytest.mark.parametrize("state", [RunnerState.DEAD, RunnerState.STOPPED])
def test_what_a_fenced_runner_still_holds_comes_back(state):
    job = make_running_job(runner=make_runner(state=state))

    assert sweep() == Swept(runners=0, requeued=1, failed=0)

    job.refresh_from_db()
    assert (job.status, job.runner_id) == ("pending", None)


def test_what_a_deleted_runner_held_comes_back():
    runner = make_runner()
    job = make_running_job(runner=runner)
    runner.delete()

    assert sweep().requeued == 1

    job.refresh_from_db()
    assert job.status == "pending"


def test_a_stopped_runner_puts_its_jobs_back_without_a_crash():
    runner = make_runner()
    job = make_running_job(runner=runner)

    assert fence_runner(runner_id=runner.pk, crashed=False, detail="x" * 600) == (1, 0)

    runner.refresh_from_db()
    assert (runner.state, len(runner.detail)) == (RunnerState.STOPPED, 500)
    job.refresh_from_db()
    assert (job.status, job.crashes) == ("pending", 0)


def test_fencing_twice_changes_nothing():
    runner = make_runner()
    fence_runner(runner_id=runner.pk, crashed=True, detail="first")

    assert fence_runner(runner_id=runner.pk, crashed=False, detail="second") == (0, 0)

    runner.refresh_from_db()
    assert (runner.state, runner.detail) == (RunnerState.DEAD, "first")
    assert not Job.objects.exists()
