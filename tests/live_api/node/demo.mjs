import assert from "node:assert/strict";
import { LengthFinishReasonError } from "openai/error";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { client, said } from "./client.mjs";

const model = "Qwen/Qwen3.5-4B";
const City = z.object({
  name: z.string().max(12),
  size: z.enum(["small", "large"]),
  coast: z.boolean(),
});

export async function parse() {
  const answer = await client().chat.completions.parse({
    model,
    messages: said("Tell me about Paris."),
    response_format: zodResponseFormat(City, "city"),
    max_tokens: 200,
    temperature: 0,
  });
  const city = answer.choices[0].message.parsed;
  assert.deepEqual(City.parse(city), city);
}

export async function a_parse_cut_short_is_an_error() {
  await assert.rejects(
    client().chat.completions.parse({
      model,
      messages: said("Tell me about Paris."),
      response_format: zodResponseFormat(City, "city"),
      max_tokens: 2,
    }),
    LengthFinishReasonError,
  );
}

export async function a_required_call_fits_its_schema() {
  const answer = await client().chat.completions.parse({
    model,
    messages: said("What is the weather?"),
    tools: [zodFunction({ name: "look_up", parameters: City })],
    tool_choice: "required",
    max_tokens: 200,
    temperature: 0,
  });
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "look_up");
  assert.deepEqual(City.parse(call.function.parsed_arguments), call.function.parsed_arguments);
}
