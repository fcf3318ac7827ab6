import assert from "node:assert/strict";
import { NotFoundError, toFile } from "openai";

import { client } from "./client.mjs";

const content = Buffer.from('{"custom_id": "ü"}\n'.repeat(100));

export async function lifecycle() {
  const { files } = client();
  const file = await files.create({ file: await toFile(content, "lines.jsonl"), purpose: "batch" });
  assert.equal(file.object, "file");
  assert.equal(file.bytes, content.length);
  assert.equal((await files.waitForProcessing(file.id)).status, "processed");
  const found = await files.content(file.id);
  assert.deepEqual(Buffer.from(await found.arrayBuffer()), content);
  assert.equal((await files.delete(file.id)).deleted, true);
  await assert.rejects(files.retrieve(file.id), NotFoundError);
}

export async function pages() {
  const { files } = client();
  const sent = [];
  for (const text of ["a", "b", "c"]) {
    sent.push((await files.create({ file: await toFile(Buffer.from(text), text), purpose: "vision" })).id);
  }
  const found = [];
  for await (const file of files.list({ purpose: "vision", limit: 2 })) found.push(file.id);
  assert.deepEqual(found.slice(0, 3), sent.reverse());
  for (const id of sent) await files.delete(id);
}
