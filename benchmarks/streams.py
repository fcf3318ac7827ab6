"""Streams of about 30 tokens/s each: time to first token, added gap, tokens/s, CPU per token."""

from __future__ import annotations

from benchmarks.report import Row, keep, median, percentile, say, table
from benchmarks.stack import PACED, TOKEN_MS, Stack, chat_body, stack

STREAMS = (1, 32, 128, 1000)


def measure(casola: Stack, streams: int, seconds: float) -> Row:
    """`streams` at once, begun over one second, each of 100 tokens, again until the time is over."""
    say(f"{streams} streams")
    plan = casola.plan(
        body=chat_body("Tell me about queues.", model=PACED, stream=True),
        connections=streams,
        seconds=seconds,
        spread=1.0,
    )
    result, cpu = casola.measure(plan)
    tokens = max(1, result.tokens)
    gaps = [gap - TOKEN_MS for gap in result.gaps]
    return {
        "streams": streams,
        "answers": result.answered,
        "failed": result.failed,
        "tokens": result.tokens,
        "tokens_per_s": result.tokens / result.seconds,
        "ttft_p50_ms": median(result.first_tokens),
        "ttft_p99_ms": percentile(result.first_tokens, 0.99),
        "gap_added_p50_ms": median(gaps),
        "gap_added_p99_ms": percentile(gaps, 0.99),
        "cpu_us_per_token": (cpu["web"] + cpu["runner"]) * 1e6 / tokens,
        **{f"{part}_us": seconds * 1e6 / tokens for part, seconds in cpu.items()},
        "client_us": result.client_cpu_s * 1e6 / tokens,
    }


def run(*, quick: bool) -> int:
    """Measure on PostgreSQL; returns how many requests failed or were not recorded."""
    with stack("postgres") as casola:
        measure(casola, 4, 0.5)
        rows = [measure(casola, streams, 1.0 if quick else 10.0) for streams in STREAMS]
        wrong = casola.failed + abs(casola.unrecorded())
    table(f"streams of 100 tokens, one every {TOKEN_MS} ms", rows)
    keep("streams", rows)
    return wrong
