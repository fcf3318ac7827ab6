"""Choosing tokens: each way of choosing, and independence from the other rows."""

from __future__ import annotations

import collections
import math

import pytest
import torch

from inference.contracts.chat import Sampling
from inference.runners.sampling import (
    Choice,
    Penalties,
    SamplingDefaults,
    penalise,
    penalties_for,
    sample,
)

DEFAULTS = SamplingDefaults()


def choice(**settings):
    return Choice(Sampling(**settings), DEFAULTS)


def draws(row, count=4000, **settings):
    choices = [choice(seed=number, **settings) for number in range(count)]
    return collections.Counter(sample(row.expand(count, -1), choices))


def test_temperature_zero_takes_the_largest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample(logits, [choice(temperature=0), choice(temperature=0)]) == [1, 0]


def test_top_k_of_one_is_greedy():
    assert sample(torch.tensor([[0.0, 3.0, 1.0]]), [choice(temperature=1, top_k=1)]) == [1]


def test_plain_sampling_follows_the_probabilities():
    row = torch.log(torch.tensor([0.5, 0.25, 0.2, 0.05]))
    counts = draws(row, temperature=1.0)
    for token, share in enumerate([0.5, 0.25, 0.2, 0.05]):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


def test_a_high_temperature_flattens():
    row = torch.log(torch.tensor([0.8, 0.2]))
    sharp, flat = draws(row, temperature=0.5)[0], draws(row, temperature=2.0)[0]
    assert sharp > 3600
    assert 2400 < flat < 2900


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    row = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.1]))
    assert set(draws(row, temperature=1.0, top_p=0.75)) == {1, 2}
    assert set(draws(row, temperature=1.0, top_p=0.01)) == {1}


@pytest.mark.parametrize("top_k", [2, 100])
def test_top_k_keeps_that_many(top_k):
    row = torch.arange(200.0) * 0.01
    assert len(draws(row, temperature=1.0, top_k=top_k)) == top_k


def test_top_p_counts_within_top_k_as_transformers_does():
    # within the best two the first has 0.625, so top_p 0.6 leaves one token
    row = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    assert set(draws(row, temperature=1.0, top_k=2, top_p=0.6)) == {0}


def test_min_p_is_relative_to_the_best():
    row = torch.log(torch.tensor([0.6, 0.31, 0.05, 0.04]))
    assert set(draws(row, temperature=1.0, min_p=0.5)) == {0, 1}


def test_a_token_of_probability_zero_is_never_drawn():
    row = torch.full((64,), -math.inf)
    row[10] = row[20] = 0.0
    assert set(draws(row, temperature=1.0)) == {10, 20}
    assert set(draws(row, temperature=1.0, top_p=0.99)) == {10, 20}


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.99}])
def test_the_largest_uniform_number_draws_a_possible_token(settings):
    class Most:
        def random(self):
            return 1 - 2**-53  # 1.0 once it is a float32

    one = choice(temperature=1.0, **settings)
    one.random = Most()
    row = torch.full((64,), -math.inf)
    row[10] = row[20] = 0.0
    assert sample(row[None], [one])[0] in {10, 20}


def test_filters_agree_with_transformers_warpers():
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    torch.manual_seed(3)
    row = torch.randn(50) * 2
    scores = row[None] / 0.9
    warpers = (TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05))
    for warper in warpers:
        scores = warper(None, scores)
    allowed = set(torch.nonzero(scores[0] > -math.inf)[:, 0].tolist())
    seen = set(draws(row, 8000, temperature=0.9, top_k=20, top_p=0.8, min_p=0.05))
    assert seen == allowed


def test_a_seed_fixes_the_answer_whatever_the_company():
    torch.manual_seed(0)
    kinds = [
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 0.8, "top_k": 5},
        {"temperature": 0},
        {"temperature": 1.1, "min_p": 0.02, "top_k": 300},
    ]
    logits = torch.randn(20, len(kinds), 2000)
    alone = []
    for row, settings in enumerate(kinds):
        one = choice(seed=row, **settings)
        alone.append([sample(logits[step, row : row + 1], [one])[0] for step in range(20)])
    together = [choice(seed=row, **settings) for row, settings in enumerate(kinds)]
    mixed = [sample(logits[step], together) for step in range(20)]
    assert [list(tokens) for tokens in zip(*mixed, strict=True)] == alone


def test_different_seeds_differ():
    logits = torch.zeros(1, 1000)
    first, second = choice(seed=1, temperature=1), choice(seed=2, temperature=1)
    one = [sample(logits, [first])[0] for _ in range(10)]
    assert one != [sample(logits, [second])[0] for _ in range(10)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 3}])
def test_invalid_logits_harm_only_their_row(bad, settings):
    logits = torch.zeros(2, 50)
    logits[0, 7] = bad
    chosen = sample(logits, [choice(**settings), choice(**settings)])
    assert chosen[0] is None
    assert chosen[1] is not None


def test_defaults_fill_in_only_what_is_not_said():
    defaults = SamplingDefaults(temperature=0.6, top_p=0.9, top_k=20)
    assert Choice(Sampling(), defaults).top_k == 20
    said = Choice(Sampling(temperature=0.0, top_p=1.0, top_k=0), defaults)
    assert (said.temperature, said.top_p, said.top_k) == (0.0, 1.0, 0)


def test_frequency_and_presence_count_the_answer_only():
    one = Penalties(Sampling(frequency_penalty=0.5, presence_penalty=1.0), 1.0, [3])
    for token in (1, 1, 2):
        one.accept(token)
    logits = torch.zeros(5)
    one.process(logits)
    assert logits.tolist() == [0.0, -2.0, -1.5, 0.0, 0.0]


def test_repetition_penalty_is_that_of_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    torch.manual_seed(1)
    logits = torch.randn(30)
    seen = [3, 4, 4, 9]
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[*seen, 5]]), logits[None].clone())
    one = Penalties(Sampling(), 1.3, seen)
    one.process(logits.clone())
    one.accept(5)
    one.process(logits)
    assert torch.allclose(logits, wanted[0])


def test_no_processor_where_no_penalty_is_asked():
    assert penalties_for(Sampling(), DEFAULTS, [1]) == []
    assert len(penalties_for(Sampling(presence_penalty=0.1), DEFAULTS, [1])) == 1
    assert len(penalties_for(Sampling(), SamplingDefaults(repetition_penalty=1.1), [1])) == 1


def test_penalties_of_many_rows_at_once_equal_those_of_each_alone():
    torch.manual_seed(2)
    rows = [
        penalties_for(Sampling(**settings), DEFAULTS, [1, 2, 2, row], bias)
        for row, (settings, bias) in enumerate(
            [
                ({"frequency_penalty": 0.5}, {}),
                ({}, {3: 7.0, 4: -9.0}),
                ({"repetition_penalty": 1.4, "presence_penalty": -1.0}, {5: 1.0}),
                ({"repetition_penalty": 0.8}, {}),
            ]
        )
    ]
    for (one,) in rows:
        for token in (5, 5, 9):
            one.accept(token)
    logits = torch.randn(5, 30)
    together, alone = logits.clone(), logits.clone()
    penalise(together, {row: one for row, (one,) in enumerate(rows)})
    for row, (one,) in enumerate(rows):
        one.process(alone[row])
    assert torch.equal(together, alone)
    assert torch.equal(together[4], logits[4])
    assert not any(torch.equal(together[row], logits[row]) for row in range(4))


def test_a_bias_is_added_to_its_token():
    (one,) = penalties_for(
        Sampling(frequency_penalty=0.5, presence_penalty=1.0), DEFAULTS, [], {2: 10.0}
    )
    for token in (2, 2, 3):
        one.accept(token)
    logits = torch.zeros(5)
    one.process(logits)
    assert logits.tolist() == [0.0, 0.0, 8.0, -1.5, 0.0]


def test_each_choice_of_a_seed_draws_its_own_numbers():
    draws = [
        [Choice(Sampling(seed=seed), DEFAULTS, stream).random.random() for stream in range(3)]
        for seed in (5, 5, -1, 6)
    ]
    assert draws[0] == draws[1]
    assert len({number for one in draws for number in one}) == 9
    assert draws[0][0] == Choice(Sampling(seed=5), DEFAULTS).random.random()
