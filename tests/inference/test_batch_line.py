"""Who shares a step of the BatchEngine."""

from __future__ import annotations

from inference.runners.batch_line import BatchLine, BatchRequest


def request(name: str, *lengths: int, owner: str = "a") -> BatchRequest:
    made = BatchRequest(name, owner, lambda values: {})
    for length in lengths:
        made.add([7] * length)
    return made


def line_of(*requests: BatchRequest) -> BatchLine:
    line = BatchLine()
    for one in requests:
        line.append(one)
    return line


def taken(line: BatchLine, *, tokens: int = 100, rows: int = 64) -> list[tuple[str, int]]:
    return [(item.request.request_id, len(item)) for item in line.take(tokens=tokens, rows=rows)]


def test_texts_of_like_length_share_a_step_whoever_sent_them():
    line = line_of(request("x", 40, 10), request("y", 39, 11, owner="b"))
    assert taken(line) == [("x", 40), ("y", 39)]
    assert taken(line) == [("y", 11), ("x", 10)]
    assert line.tokens == 0
    assert taken(line) == []


def test_a_step_holds_no_more_than_its_tokens_with_padding():
    line = line_of(request("x", *[30] * 5))
    assert [len(taken(line)), len(taken(line))] == [3, 2]


def test_a_step_holds_no_more_than_its_rows():
    line = line_of(request("x", *[3] * 5))
    assert [len(taken(line, rows=4)), len(taken(line, rows=4))] == [4, 1]


def test_a_text_over_the_budget_runs_alone():
    line = line_of(request("x", 500, 20))
    assert taken(line) == [("x", 500)]
    assert taken(line) == [("x", 20)]


def test_short_texts_may_differ_more():
    assert taken(line_of(request("x", 2, 9))) == [("x", 2), ("x", 9)]


def test_organizations_take_turns():
    """A large request of one holds up the small one of another for one step only."""
    line = line_of(request("large", *range(20, 60)), request("small", 400, owner="b"))
    assert taken(line, tokens=60)[0][0] == "large"
    assert taken(line, tokens=60)[0] == ("small", 400)


def test_requests_of_one_organization_take_turns_too():
    line = line_of(request("large", *range(20, 60)), request("small", 400))
    first = [taken(line, tokens=60)[0][0] for _ in range(2)]
    assert first == ["large", "small"]


def test_what_is_over_leaves_the_line():
    gone, other = request("gone", 10, 10), request("other", 10)
    line = line_of(gone, other)
    gone.is_over = True
    line.drop(gone)
    assert line.tokens == 10
    assert taken(line) == [("other", 10)]
    assert line.tokens == 0


def test_everything_is_taken_once():
    lengths = [(7 * n) % 61 + 1 for n in range(200)]
    line = line_of(request("x", *lengths), request("y", *lengths, owner="b"))
    total, steps = [], 0
    while step := taken(line, tokens=200):
        total += [length for _, length in step]
        longest = max(length for _, length in step)
        assert longest * len(step) <= 200
        steps += 1
    assert sorted(total) == sorted(lengths * 2)
    assert line.tokens == 0
    assert steps < 100
