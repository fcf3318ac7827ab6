import assert from "node:assert/strict";
import { BadRequestError, toFile } from "openai";

import { client } from "./client.mjs";

const wish = { model: "flux", prompt: "a red circle on blue", size: "256x256" };
const HEAD = "89504e470d0a1a0a";

export async function generate() {
  const answer = await client().images.generate({ ...wish, n: 2 });
  assert.equal(answer.data.length, 2);
  for (const { url } of answer.data) {
    const file = Buffer.from(await (await fetch(url)).arrayBuffer());
    assert.equal(file.subarray(0, 8).toString("hex"), HEAD);
  }
}

export async function edit() {
  const drawn = await client().images.generate({ ...wish, response_format: "b64_json" });
  const image = await toFile(Buffer.from(drawn.data[0].b64_json, "base64"), "a.png", { type: "image/png" });
  const answer = await client().images.edit({
    model: "flux", image: [image, image], prompt: "a green star", n: 1, response_format: "b64_json",
  });
  const file = Buffer.from(answer.data[0].b64_json, "base64");
  assert.equal(file.subarray(0, 8).toString("hex"), HEAD);
}

export async function stream() {
  const events = await client().images.generate({ ...wish, stream: true });
  const types = [];
  for await (const event of events) types.push(event.type);
  assert.deepEqual(types, ["image_generation.completed"]);
}

export async function refusal() {
  await assert.rejects(client().images.generate({ ...wish, size: "1x1" }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.param, "size");
    return true;
  });
}
