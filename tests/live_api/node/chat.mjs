import assert from "node:assert/strict";
import {
  APIError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  PermissionDeniedError,
} from "openai";

import { HELLO, client, collect, said } from "./client.mjs";

const model = "test/echo";

export async function create() {
  const answer = await client().chat.completions.create({ model, messages: HELLO });
  assert.match(answer.id, /^chatcmpl-[0-9a-f]{32}$/);
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, model);
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.match(answer.choices[0].message.content, /^w0 w1 /);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.choices[0].logprobs, null);
  assert.match(answer._request_id, /^[0-9a-f]{32}$/);
}

export async function usage() {
  const { usage } = await client().chat.completions.create({ model, messages: said("a b c"), n: 2 });
  assert.deepEqual(usage, {
    prompt_tokens: 3,
    completion_tokens: 32,
    total_tokens: 35,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  });
}

export async function stream() {
  const chunks = await collect(
    await client().chat.completions.create({ model: "test/paced", messages: HELLO, stream: true }),
  );
  assert.equal(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created}`)).size, 1);
  assert.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
  const words = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("").trim();
  assert.equal(words.split(" ").length, 10);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.ok(chunks.every((chunk) => !("usage" in chunk)));
}

export async function stream_with_usage() {
  const chunks = await collect(
    await client().chat.completions.create({
      model,
      messages: HELLO,
      stream: true,
      stream_options: { include_usage: true },
    }),
  );
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 16);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
}

export async function stream_helper() {
  const runner = client().chat.completions.stream({ model, messages: HELLO });
  let text = "";
  runner.on("content", (delta) => (text += delta));
  const answer = await runner.finalChatCompletion();
  assert.equal(answer.choices[0].message.content, text);
  assert.match(text, /^w0 w1 /);
}

export async function choices_in_a_stream() {
  const chunks = await collect(
    await client().chat.completions.create({ model, messages: HELLO, n: 3, stream: true }),
  );
  const deltas = chunks.map((chunk) => chunk.choices[0]);
  assert.deepEqual([...new Set(deltas.map((choice) => choice.index))], [0, 1, 2]);
  for (const index of [0, 1, 2]) {
    const own = deltas.filter((choice) => choice.index === index);
    assert.equal(own.filter((choice) => choice.delta.role).length, 1);
    assert.equal(own.filter((choice) => choice.finish_reason).length, 1);
    assert.equal(own.at(-1).finish_reason, "stop");
  }
}

export async function choices() {
  const answer = await client().chat.completions.create({
    model,
    messages: HELLO,
    n: 3,
    max_completion_tokens: 2,
  });
  assert.deepEqual(
    answer.choices.map(({ index, finish_reason }) => [index, finish_reason]),
    [0, 1, 2].map((index) => [index, "length"]),
  );
  assert.equal(answer.usage.completion_tokens, 6);
}

export async function logprobs() {
  const body = { model, messages: HELLO, max_tokens: 3, logprobs: true, top_logprobs: 2 };
  const whole = (await client().chat.completions.create(body)).choices[0];
  assert.equal(whole.logprobs.content.length, 3);
  for (const token of whole.logprobs.content) {
    assert.equal(typeof token.logprob, "number");
    assert.deepEqual(token.bytes, [...Buffer.from(token.token)]);
    assert.equal(token.top_logprobs.length, 2);
  }
  const parts = await collect(await client().chat.completions.create({ ...body, stream: true }));
  const streamed = parts.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []);
  assert.deepEqual(streamed, whole.logprobs.content);
}

export async function reasoning() {
  const answer = await client().chat.completions.create({ model, messages: said("!think") });
  assert.equal(answer.choices[0].message.reasoning_content, "Let me think first. ");
  assert.match(answer.choices[0].message.content, /^w0 /);
  assert.equal(answer.usage.completion_tokens_details.reasoning_tokens, 4);
}

export async function errors_have_their_classes() {
  const ask = (fields, options) =>
    client(options).chat.completions.create({ model, messages: HELLO, ...fields });
  const rows = [
    [() => ask({ messages: [] }), BadRequestError, 400, "invalid_value", "messages"],
    [() => ask({ n: 129 }), BadRequestError, 400, "invalid_value", "n"],
    [() => ask({ tools: [{ type: "function", function: {} }] }), BadRequestError, 400, null, "tools[0].function.name"],
    [() => ask({ model: "no/such" }), NotFoundError, 404, "model_not_found", "model"],
    [() => ask({}, { apiKey: "csl_sk_wrong" }), AuthenticationError, 401, "invalid_api_key", null],
    [() => ask({}, { apiKey: process.env.READ_KEY }), PermissionDeniedError, 403, "insufficient_scope", null],
    [() => ask({ messages: said("!error") }), InternalServerError, 502, "worker_error", null],
  ];
  for (const [attempt, kind, status, code, param] of rows) {
    const error = await attempt().then(() => assert.fail("no error"), (reason) => reason);
    assert.ok(error instanceof kind, String(error));
    assert.equal(error.constructor, kind);
    assert.equal(error.status, status);
    if (code !== null) assert.equal(error.code, code);
    assert.equal(error.param ?? null, param);
    assert.match(error.requestID, /^[0-9a-f]{32}$/);
    assert.ok(error.message.includes(error.error.message));
  }
}

export async function an_error_in_mid_stream_is_thrown() {
  const stream = await client().chat.completions.create({
    model: "test/paced",
    messages: said("!error 3"),
    stream: true,
  });
  let text = "";
  const error = await (async () => {
    for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
  })().then(() => assert.fail("no error"), (reason) => reason);
  assert.ok(error instanceof APIError, String(error));
  assert.equal(error.code, "worker_error");
  assert.equal(text.trim(), "w0 w1 w2");
}

export async function leaving_a_stream_cancels_it() {
  const { data, response } = await client()
    .chat.completions.create({ model: "test/paced", messages: said("!tokens 3000"), stream: true })
    .withResponse();
  let seen = 0;
  for await (const chunk of data) {
    seen += Boolean(chunk.choices[0].delta.content);
    if (seen === 3) break;
  }
  const url = `${process.env.ORIGIN}/api/jobs/${response.headers.get("x-casola-job-id")}`;
  const headers = { Authorization: `Bearer ${process.env.READ_KEY}` };
  for (let tries = 0; tries < 100; tries += 1) {
    const job = await (await fetch(url, { headers })).json();
    if (job.status === "cancelled") return;
    assert.notEqual(job.status, "completed");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail("the job was not cancelled");
}

export async function text_completions() {
  const answer = await client().completions.create({ model, prompt: ["a", "b"], n: 2, echo: true });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  assert.deepEqual(answer.choices.map((choice) => choice.text[0]), ["a", "a", "b", "b"]);
  const chunks = await collect(
    await client().completions.create({ model, prompt: "a", max_tokens: 2, stream: true }),
  );
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), "w0 w1 ");
  assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
}

export async function models() {
  const ids = [];
  for await (const found of client().models.list()) ids.push(found.id);
  assert.ok(ids.includes("Qwen/Qwen3.5-4B"));
  assert.equal((await client().models.retrieve("Qwen/Qwen3.5-4B")).owned_by, "casola");
}

