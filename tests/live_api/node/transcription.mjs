import assert from "node:assert/strict";
import { BadRequestError, toFile } from "openai";

import { client } from "./client.mjs";

const wish = { model: "whisper-large-v3" };
const said = "hello welcome to casola";

async function spoken(response_format = "mp3") {
  const response = await client().audio.speech.create({
    model: "Qwen3-TTS", input: "Hello, welcome to Casola!", voice: "alloy", response_format,
  });
  return toFile(Buffer.from(await response.arrayBuffer()), `speech.${response_format}`);
}

function bare(text) {
  return text.toLowerCase().match(/\w+/g).join(" ");
}

export async function create() {
  const file = await spoken();
  const found = await client().audio.transcriptions.create({ ...wish, file });
  assert.equal(bare(found.text), said);
}

export async function formats() {
  const file = await spoken("wav");
  const ask = (options) => client().audio.transcriptions.create({ ...wish, file, ...options });
  assert.equal(bare(await ask({ response_format: "text" })), said);
  assert.match(await ask({ response_format: "srt" }), /^1\n00:00:0\d,\d{3} --> /);
  assert.match(await ask({ response_format: "vtt" }), /^WEBVTT\n\n00:00:0\d\.\d{3} --> /);
  const verbose = await ask({
    response_format: "verbose_json", timestamp_granularities: ["word", "segment"],
  });
  assert.equal(verbose.words.length, 4);
  assert.equal(verbose.segments.length > 0, true);
}

export async function stream() {
  const events = [];
  const file = await spoken();
  const answer = await client().audio.transcriptions.create({ ...wish, file, stream: true });
  for await (const event of answer) events.push(event);
  const done = events.pop();
  assert.equal(done.type, "transcript.text.done");
  assert.equal(events.map((event) => event.delta).join(""), done.text);
  assert.equal(bare(done.text), said);
}

export async function translation() {
  const file = await spoken();
  const found = await client().audio.translations.create({ ...wish, file });
  assert.equal(bare(found.text), said);
}

export async function refusal() {
  const file = await toFile(Buffer.from("no sound at all"), "a.mp3");
  await assert.rejects(client().audio.transcriptions.create({ ...wish, file }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.code, "invalid_audio");
    assert.equal(error.param, "file");
    return true;
  });
}
