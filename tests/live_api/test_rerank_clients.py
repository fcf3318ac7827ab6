"""Rerank by the clients people have: Cohere's own, and LiteLLM's providers."""

from __future__ import annotations

import importlib
from types import ModuleType

import cohere
import pytest

from tests.live_api.envelope import RERANK, RERANKER, rerank_body

QUERY = "When does the bakery open?"
DOCUMENTS = ["The bank opens at nine.", "The bakery opens at seven.", "It rained in May."]


@pytest.fixture(scope="module")
def expected(readers, http):
    """(index, score) of each document, the best first."""
    answer = http.post(RERANK, json=rerank_body(*DOCUMENTS, query=QUERY)).json()
    return [(entry["index"], entry["relevance_score"]) for entry in answer["results"]]


def about(pairs):
    return [(index, pytest.approx(score, abs=1e-5)) for index, score in pairs]


@pytest.fixture(scope="module")
def litellm() -> ModuleType:
    """Imported late, for it takes seconds, and told not to fetch prices or read settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_MODE", "PRODUCTION")
        return importlib.import_module("litellm")


@pytest.fixture(params=[cohere.Client, cohere.ClientV2], ids=["v1", "v2"])
def client(request, site):
    return request.param(api_key=site.alpha["user_write"], base_url=f"{site.url}/openai")


def test_coheres_client_ranks(client, expected):
    answer = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS)
    assert [(one.index, one.relevance_score) for one in answer.results] == about(expected)
    assert answer.id.startswith("rerank-")
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens.input_tokens > 0


def test_coheres_client_wants_only_the_best(client, expected):
    answer = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS, top_n=1)
    assert [(one.index, one.relevance_score) for one in answer.results] == about(expected[:1])


def test_coheres_first_client_is_given_documents_back(site, expected):
    client = cohere.Client(api_key=site.alpha["user_write"], base_url=f"{site.url}/openai")
    answer = client.rerank(
        model=RERANKER,
        query=QUERY,
        documents=[{"text": text} for text in DOCUMENTS],
        return_documents=True,
    )
    assert [one.document.text for one in answer.results] == [DOCUMENTS[n] for n, _ in expected]


def test_coheres_client_raises_what_went_wrong(client, site):
    with pytest.raises(cohere.NotFoundError) as missing:
        client.rerank(model="no/such", query=QUERY, documents=DOCUMENTS)
    assert missing.value.body["error"]["code"] == "model_not_found"
    with pytest.raises(cohere.BadRequestError) as wrong:
        client.rerank(model=RERANKER, query="", documents=DOCUMENTS)
    assert wrong.value.body["error"]["param"] == "query"
    stranger = type(client)(api_key="csl_sk_nobody", base_url=f"{site.url}/openai")
    with pytest.raises(cohere.UnauthorizedError):
        stranger.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS)


# Its provider for Jina asks at the root of a host, whatever the base says.
PROVIDERS = {
    "hosted_vllm": "/openai/v1",
    "infinity": "/openai/v1",
    "voyage": "/openai/v1",
    "cohere": "/openai",
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_ranks_through_its_providers(litellm, site, expected, provider):
    answer = litellm.rerank(
        model=f"{provider}/{RERANKER}",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=2,
        return_documents=False,  # as objects, which its provider for Infinity cannot read
        api_base=site.url + PROVIDERS[provider],
        api_key=site.alpha["user_write"],
    )
    found = [(entry["index"], entry["relevance_score"]) for entry in answer.results]
    assert found == about(expected[:2])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_raises_what_went_wrong(litellm, site, readers, provider):
    with pytest.raises(Exception, match="does not exist"):
        litellm.rerank(
            model=f"{provider}/no/such",
            query=QUERY,
            documents=DOCUMENTS,
            api_base=site.url + PROVIDERS[provider],
            api_key=site.alpha["user_write"],
        )
