"""Embeddings, rerank and score over HTTP, by the shipped models."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import struct

import httpx
import numpy as np
import openai
import pytest

from tests.live import wait_until
from tests.live_api.envelope import (
    EMBEDDER,
    EMBEDDINGS,
    RERANK,
    RERANKER,
    SCORE,
    assert_envelope,
    bearer,
    embeddings_body,
    rerank_body,
    score_body,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("readers")]
RERANK_V2 = "/openai/v2/rerank"
WIDTH = 128


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([entry["embedding"] for entry in answer.json()["data"]])


@pytest.mark.sqlite
def test_the_sdk_asks_for_base64_and_reads_it(sdk, http):
    """The official client's default; it decodes to the very numbers that JSON shows."""
    answer = sdk.embeddings.create(model=EMBEDDER, input=["the red car", "a blue bird"])
    assert (answer.object, answer.model) == ("list", EMBEDDER)
    assert [entry.index for entry in answer.data] == [0, 1]
    assert all(len(entry.embedding) == WIDTH for entry in answer.data)
    plain = http.post(EMBEDDINGS, json=embeddings_body(["the red car", "a blue bird"]))
    assert np.array_equal(
        np.array([entry.embedding for entry in answer.data], "f4"), vectors(plain).astype("f4")
    )
    assert answer.usage.model_dump() == plain.json()["usage"]
    assert np.allclose(np.linalg.norm(vectors(plain), axis=1), 1, atol=1e-5)


def test_the_sdk_reads_floats_and_fewer_dimensions(sdk):
    whole = sdk.embeddings.create(model=EMBEDDER, input="a cat", encoding_format="float")
    short = sdk.embeddings.create(model=EMBEDDER, input="a cat", dimensions=16)
    first = np.array(whole.data[0].embedding[:16])
    assert np.allclose(short.data[0].embedding, first / np.linalg.norm(first), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="between 1 and 128") as caught:
        sdk.embeddings.create(model=EMBEDDER, input="a cat", dimensions=129)
    assert caught.value.param == "dimensions"


def test_base64_is_float32_little_endian(http):
    one = http.post(EMBEDDINGS, json=embeddings_body("x", encoding_format="base64")).json()
    raw = base64.b64decode(one["data"][0]["embedding"])
    plain = http.post(EMBEDDINGS, json=embeddings_body("x")).json()["data"][0]["embedding"]
    assert list(struct.unpack(f"<{WIDTH}f", raw)) == pytest.approx(plain, abs=1e-9)


def test_token_ids_are_taken(sdk, http):
    one = sdk.embeddings.create(model=EMBEDDER, input=[5, 6, 7])
    many = sdk.embeddings.create(model=EMBEDDER, input=[[5, 6, 7], [8]])
    assert np.allclose(one.data[0].embedding, many.data[0].embedding, atol=1e-6)
    assert one.usage.prompt_tokens == 5
    assert many.usage.total_tokens == 5 + 3
    foreign = http.post(EMBEDDINGS, json=embeddings_body([100_257]))
    error = assert_envelope(foreign, 400)
    assert error["param"] == "input[0]"
    assert "check_embedding_ctx_length=False" in error["message"]


def test_an_answer_names_its_job_and_the_weights(site, http):
    answer = http.post(EMBEDDINGS, json=embeddings_body("two words"))
    assert answer.headers["x-casola-weights"] == "demo"
    job = http.get(f"/api/jobs/{answer.headers['x-casola-job-id']}").json()
    assert job["status"] == "completed"
    assert job["usage"]["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"] > 2
    # nobody else's
    foreign = bearer(site.beta["user_read"])
    assert http.get(f"/api/jobs/{job['id']}", headers=foreign).status_code == 404


def test_equal_texts_have_equal_vectors_in_any_company(http):
    alone = vectors(http.post(EMBEDDINGS, json=embeddings_body("the printer is broken")))
    texts = [f"text number {n} of many" + " and more" * (n % 9) for n in range(100)]
    many = vectors(http.post(EMBEDDINGS, json=embeddings_body([*texts, "the printer is broken"])))
    assert np.allclose(many[-1], alone[0], atol=1e-5)


def test_a_full_request_comes_back_whole(http):
    """2,048 texts are 1 MB of numbers: more than a frame carries."""
    texts = [f"item {number}" for number in range(2_048)]
    for encoding in ("base64", "float"):
        answer = http.post(
            EMBEDDINGS, json=embeddings_body(texts, encoding_format=encoding), timeout=120
        )
        data = answer.json()["data"]
        assert [entry["index"] for entry in data] == list(range(2_048))
        if encoding == "base64":
            found = np.frombuffer(base64.b64decode("".join(e["embedding"] for e in data)), "<f4")
            found = found.reshape(2_048, WIDTH) if len(found) == 2_048 * WIDTH else None
    assert found is None or np.allclose(found[7], vectors(answer)[7], atol=1e-7)


def test_organizations_share_the_model_and_nothing_else(site):
    """Forty callers of two organizations at once: each gets the vectors of its own texts."""
    keys = (site.alpha["user_write"], site.beta["user_write"])

    def one(number: int) -> bool:
        texts = [f"caller {number} says {word}" for word in ("one", "two", "three")]
        headers = bearer(keys[number % 2])
        url = site.urls[number % 2] + EMBEDDINGS
        found = vectors(httpx.post(url, json=embeddings_body(texts), headers=headers, timeout=60))
        alone = vectors(
            httpx.post(url, json=embeddings_body(texts[1]), headers=headers, timeout=60)
        )
        return np.allclose(found[1], alone[0], atol=1e-5)

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert all(pool.map(one, range(40)))


# -- rerank and score --------------------------------------------------------------------------

DOCUMENTS = ["The bank opens at nine.", "The weather is sunny.", "The bakery opens at seven."]


def test_rerank_has_both_lists(http):
    body = rerank_body(*DOCUMENTS, query="When does the bakery open?", return_documents=True)
    answer = http.post(RERANK, json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert set(found) == {"object", "id", "model", "data", "results", "usage", "meta"}
    assert sorted(entry["index"] for entry in found["data"]) == [0, 1, 2]
    scores = [entry["relevance_score"] for entry in found["data"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    for entry, result in zip(found["data"], found["results"], strict=True):
        assert entry["document"] == DOCUMENTS[entry["index"]]
        assert result == {**entry, "document": {"text": entry["document"]}}
    assert found["usage"]["total_tokens"] == found["meta"]["tokens"]["input_tokens"] > 10


def test_both_paths_and_both_forms_of_documents_answer_alike(http):
    plain = http.post(RERANK, json=rerank_body(*DOCUMENTS)).json()
    objects = rerank_body(*[{"text": text, "title": 7} for text in DOCUMENTS])
    other = http.post(RERANK_V2, json=objects).json()
    assert other["results"] == plain["results"]
    assert "document" not in plain["data"][0]


@pytest.mark.parametrize(
    ("fields", "count"),
    [({}, 3), ({"top_n": 0}, 3), ({"top_n": 99}, 3), ({"top_n": 2}, 2), ({"top_k": 1}, 1)],
)
def test_top_n(http, fields, count):
    assert len(http.post(RERANK, json=rerank_body(*DOCUMENTS, **fields)).json()["data"]) == count


def test_cohere_and_litellm_shapes_are_taken(http):
    """What cohere.ClientV2 and litellm's hosted_vllm and infinity providers put on the wire."""
    cohere = {
        "model": RERANKER,
        "query": "q",
        "documents": DOCUMENTS,
        "top_n": 2,
        "max_tokens_per_doc": 512,
        "priority": 0,
    }
    answer = http.post(RERANK_V2, json=cohere, headers={"Accept": "*/*"}).json()
    assert {"id", "results", "meta"} <= set(answer)
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    litellm = {
        "model": RERANKER,
        "query": "q",
        "documents": [{"text": text} for text in DOCUMENTS],
        "top_n": 2,
        "rank_fields": None,
        "return_documents": True,
        "max_chunks_per_doc": None,
    }
    answer = http.post(RERANK, json=litellm).json()
    assert answer["results"][0]["document"]["text"] in DOCUMENTS
    assert answer["usage"]["total_tokens"] > 0


def test_score_is_the_reranks_score(http):
    ranked = http.post(RERANK, json=rerank_body(*DOCUMENTS)).json()["data"]
    answer = http.post(SCORE, json=score_body("hi", DOCUMENTS))
    found = answer.json()
    assert set(found) == {"id", "object", "created", "model", "data", "usage"}
    assert [entry["index"] for entry in found["data"]] == [0, 1, 2]
    assert {entry["object"] for entry in found["data"]} == {"score"}
    for entry in ranked:
        assert found["data"][entry["index"]]["score"] == pytest.approx(
            entry["relevance_score"], abs=1e-5
        )
    renamed = {"model": RERANKER, "queries": "hi", "documents": DOCUMENTS}
    assert http.post(SCORE, json=renamed).json()["data"] == found["data"]


def test_score_pairs_as_many_with_as_many(http):
    one = http.post(SCORE, json=score_body(["a", "b"], ["c", "d"])).json()["data"]
    assert len(one) == 2
    assert len(http.post(SCORE, json=score_body("a", "c")).json()["data"]) == 1
    error = assert_envelope(http.post(SCORE, json=score_body(["a", "b"], ["c"])), 400)
    assert error["param"] == "text_1"


def test_an_embedding_model_ranks_and_scores_by_cosine(http):
    both = vectors(http.post(EMBEDDINGS, json=embeddings_body(["hi", *DOCUMENTS])))
    cosines = both[1:] @ both[0]
    answer = http.post(RERANK, json=rerank_body(*DOCUMENTS, model=EMBEDDER)).json()
    scores = {entry["index"]: entry["relevance_score"] for entry in answer["data"]}
    assert [scores[n] for n in range(3)] == pytest.approx(((1 + cosines) / 2).tolist(), abs=1e-5)
    assert answer["data"][0]["index"] == int(cosines.argmax())
    scored = http.post(SCORE, json=score_body("hi", DOCUMENTS, model=EMBEDDER)).json()["data"]
    assert [entry["score"] for entry in scored] == pytest.approx([scores[n] for n in range(3)])


def test_a_model_of_another_kind_is_not_found(http):
    for path, body in (
        (EMBEDDINGS, embeddings_body(model=RERANKER)),
        (EMBEDDINGS, embeddings_body(model="test/echo")),
        (RERANK, rerank_body(model="Qwen/Qwen3.5-4B")),
        (SCORE, score_body(model="no/such")),
    ):
        assert_envelope(http.post(path, json=body), 404, code="model_not_found")


# -- refusals ----------------------------------------------------------------------------------

REFUSED = [
    *[
        (EMBEDDINGS, {"input": value}, param)
        for value, param in (
            ([], "input"),
            ("", "input"),
            ([""], "input[0]"),
            (["a", ""], "input[1]"),
            (["a"] * 2_049, "input"),
            (["a"] * 100_000, "input"),
            ([-1], "input"),
            ([[1], [-1]], "input[1]"),
            ([[]], "input[0]"),
            (["a", 1], "input[1]"),
            ([1, "a"], "input"),
            ([True], "input"),
            ([1.5], "input"),
            ([2**31], "input"),
            ([10**30], "input"),
            ({"a": 1}, "input"),
            (7, "input"),
            (["word " * 600], "input[0]"),
        )
    ],
    *[(EMBEDDINGS, {"dimensions": n}, "dimensions") for n in (0, -1, 1.5, "8", 10**30, 5_000)],
    *[(EMBEDDINGS, {"encoding_format": n}, "encoding_format") for n in ("hex", "", 1, ["float"])],
    (EMBEDDINGS, {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    *[
        (RERANK, {"documents": value}, param)
        for value, param in (
            ([], "documents"),
            ("a", "documents"),
            ([1], "documents[0]"),
            (["a", None], "documents[1]"),
            (["a", ""], "documents[1]"),
            ([{"text": ""}], "documents[0].text"),
            ([{"title": "x"}], "documents[0].text"),
            (["a"] * 1_001, "documents"),
            (["a"] * 100_000, "documents"),
        )
    ],
    *[(RERANK, {"query": value}, "query") for value in ("", 1, ["a"], "word " * 600)],
    *[(RERANK, {"top_n": value}, "top_n") for value in (-1, 1.5, "2")],
    (RERANK, {"top_n": 1, "top_k": 2}, "top_k"),
    (RERANK, {"return_documents": "yes"}, "return_documents"),
    *[
        (SCORE, {"text_2": value}, param)
        for value, param in (
            ([], "text_2"),
            ("", "text_2"),
            ([1], "text_2[0]"),
            (["a"] * 1_001, "text_2"),
            ({}, "text_2"),
        )
    ],
    (SCORE, {"text_1": ["a", "b"]}, "text_1"),
]
GOOD = {
    EMBEDDINGS: embeddings_body(),
    RERANK: rerank_body(),
    SCORE: score_body(),
}
TASKS = {EMBEDDINGS: "openai/embeddings", RERANK: "openai/rerank", SCORE: "openai/score"}


@pytest.mark.parametrize(
    ("path", "fields", "param"), REFUSED, ids=[f"{p}-{n}" for n, (_, _, p) in enumerate(REFUSED)]
)
def test_what_is_wrong_is_named(http, path, fields, param):
    error = assert_envelope(http.post(path, json={**GOOD[path], **fields}, timeout=30), 400)
    assert error["param"] == param


def test_a_text_over_the_context_says_so_or_is_cut(http):
    long = embeddings_body("word " * 600)
    error = assert_envelope(http.post(EMBEDDINGS, json=long), 400)
    assert error["code"] == "context_length_exceeded"
    assert "at most 512" in error["message"]
    cut = http.post(EMBEDDINGS, json={**long, "truncate_prompt_tokens": -1})
    assert cut.json()["usage"]["prompt_tokens"] == 512
    ranked = http.post(RERANK, json=rerank_body("word " * 600, "short"))
    assert ranked.status_code == 200


# -- jobs --------------------------------------------------------------------------------------


def job(http, ended, path: str, body: dict) -> dict:
    made = http.post(
        "/api/jobs", json={"model_id": body["model"], "task": TASKS[path], "input": body}
    )
    assert made.status_code == 201, made.text
    return ended(made.json()["id"], seconds=60)


@pytest.mark.sqlite
def test_a_job_of_each_task_has_the_endpoints_answer(http, ended):
    for path, body in (
        (EMBEDDINGS, embeddings_body(["a", "b"], dimensions=4)),
        (EMBEDDINGS, embeddings_body("a", encoding_format="base64")),
        (RERANK, rerank_body(*DOCUMENTS, top_n=2, return_documents=True)),
        (SCORE, score_body("a", ["b", "c"])),
    ):
        found = job(http, ended, path, body)
        assert found["status"] == "completed", found
        direct = http.post(path, json=body).json()
        assert found["usage"]["prompt_tokens"] == direct["usage"]["prompt_tokens"]
        unlike = {"id": None, "created": None}
        assert round_floats({**found["result"], **unlike}) == round_floats({**direct, **unlike})


def round_floats(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: round_floats(item) for key, item in value.items() if key != "embedding"} | (
            {"embedding": type(value["embedding"]).__name__} if "embedding" in value else {}
        )
    return [round_floats(item) for item in value] if isinstance(value, list) else value


def test_a_jobs_refusals_name_the_place(http):
    body = {"model_id": EMBEDDER, "task": "openai/embeddings", "input": {"input": ["a", ""]}}
    error = assert_envelope(http.post("/api/jobs", json=body), 400)
    assert error["param"] == "input.input[1]"


def test_a_job_that_the_model_refuses_fails_with_its_reason(http, ended):
    found = job(http, ended, EMBEDDINGS, embeddings_body("word " * 600))
    assert found["status"] == "failed"
    assert found["error"]["code"] == "context_length_exceeded"


# -- faults ------------------------------------------------------------------------------------


def test_leaving_stops_the_work_and_pays_for_what_was_done(site, ended):
    texts = [f"a rather long text with the number {n} in it " * 9 for n in range(2_000)]
    code = (
        "import json; from jobs.models import Job; print(json.dumps([[str(j.pk), j.status,"
        " j.units.get('prompt_tokens', 0)] for j in Job.objects.filter("
        f"organization__public_id={site.beta['id']!r}, task='openai/embeddings')"
        ".order_by('-created_at')[:1]]))"
    )
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            site.url + EMBEDDINGS,
            json=embeddings_body(texts),
            headers=bearer(site.beta["user_write"]),
            timeout=httpx.Timeout(30, read=1.0),
        )

    def recorded():
        ((_, status, tokens),) = json.loads(site.live.python(code).splitlines()[-1])
        return (status, tokens) if status == "cancelled" else None

    _, tokens = wait_until(recorded, seconds=20, every=0.5, what="the cancelled job")
    assert tokens < 100_000
