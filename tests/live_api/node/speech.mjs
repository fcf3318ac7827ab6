import assert from "node:assert/strict";
import { BadRequestError } from "openai";

import { client } from "./client.mjs";

const wish = { model: "Qwen3-TTS", input: "Hello, welcome to Casola!", voice: "alloy" };

export async function create() {
  const response = await client().audio.speech.create(wish);
  assert.equal(response.headers.get("content-type"), "audio/mpeg");
  const sound = Buffer.from(await response.arrayBuffer());
  assert.equal(sound.length, Number(response.headers.get("content-length")));
  assert.ok(sound.length > 5_000);
}

export async function formats() {
  const heads = { wav: "RIFF", flac: "fLaC", opus: "OggS" };
  for (const [response_format, head] of Object.entries(heads)) {
    const response = await client().audio.speech.create({ ...wish, response_format });
    const sound = Buffer.from(await response.arrayBuffer());
    assert.equal(sound.subarray(0, 4).toString(), head);
  }
}

export async function stream() {
  const input = "One sentence after another. ".repeat(40);
  const response = await client().audio.speech.create({
    ...wish, input, response_format: "pcm", stream_format: "audio",
  });
  let bytes = 0;
  for await (const part of response.body) bytes += part.length;
  assert.ok(bytes > 48_000 * 20);
}

export async function refusal() {
  await assert.rejects(client().audio.speech.create({ ...wish, voice: "nobody" }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.param, "voice");
    return true;
  });
}
