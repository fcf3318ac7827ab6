import assert from "node:assert/strict";

import { client, collect, said } from "./client.mjs";

const model = "test/echo";
const PLACE = {
  type: "object",
  properties: { place: { type: "string" } },
  required: ["place"],
  additionalProperties: false,
};
const tool = (name) => ({ type: "function", function: { name, description: name, parameters: PLACE } });
const TOOLS = [tool("weather"), tool("time")];
const TWO = said('!call weather {"place": "Köln"} !call time {"place": "Bern"}');

export async function parallel_calls() {
  const answer = await client().chat.completions.create({ model, messages: TWO, tools: TOOLS });
  const [{ message, finish_reason }] = answer.choices;
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.content, null);
  assert.deepEqual(
    message.tool_calls.map((call) => [call.type, call.function.name, JSON.parse(call.function.arguments)]),
    [
      ["function", "weather", { place: "Köln" }],
      ["function", "time", { place: "Bern" }],
    ],
  );
  assert.equal(new Set(message.tool_calls.map((call) => call.id)).size, 2);
}

export async function one_call_where_parallel_is_off() {
  const answer = await client().chat.completions.create({
    model,
    messages: TWO,
    tools: TOOLS,
    parallel_tool_calls: false,
  });
  assert.equal(answer.choices[0].message.tool_calls.length, 1);
}

export async function calls_in_a_stream() {
  const chunks = await collect(
    await client().chat.completions.create({ model, messages: TWO, tools: TOOLS, stream: true }),
  );
  const deltas = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  for (const index of [0, 1]) {
    const own = deltas.filter((delta) => delta.index === index);
    assert.equal(own.filter((delta) => delta.id).length, 1);
    assert.equal(own.filter((delta) => delta.function.name).length, 1);
    const whole = own.map((delta) => delta.function.arguments).join("");
    assert.deepEqual(JSON.parse(whole), { place: ["Köln", "Bern"][index] });
  }
  assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
}

export async function the_stream_helper_puts_calls_together() {
  const answer = await client()
    .chat.completions.stream({ model, messages: TWO, tools: TOOLS })
    .finalChatCompletion();
  const [{ message }] = answer.choices;
  assert.deepEqual(
    message.tool_calls.map((call) => [call.function.name, call.function.arguments]),
    [
      ["weather", '{"place": "Köln"}'],
      ["time", '{"place": "Bern"}'],
    ],
  );
}

async function runTools(stream) {
  const asked = [];
  const run = ({ place }) => {
    asked.push(place);
    return `sunny in ${place}`;
  };
  const tools = TOOLS.map(({ function: declared }) => ({
    type: "function",
    function: { ...declared, function: run, parse: JSON.parse },
  }));
  const runner = client().chat.completions.runTools({ model, messages: TWO, tools, stream });
  assert.match(await runner.finalContent(), /^w0 w1 /);
  assert.deepEqual(asked, ["Köln", "Bern"]);
  const roles = runner.messages.map((message) => message.role);
  assert.deepEqual(roles, ["user", "assistant", "tool", "tool", "assistant"]);
  const total = await runner.totalUsage();
  if (!stream) assert.ok(total.completion_tokens > 16);
}

export async function run_tools() {
  await runTools(false);
}

export async function run_tools_in_streams() {
  await runTools(true);
}
