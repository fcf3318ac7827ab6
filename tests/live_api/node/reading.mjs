import assert from "node:assert/strict";

import { client } from "./client.mjs";

const model = "BAAI/bge-large-en-v1.5";

export async function embeddings() {
  // the client asks for base64 by itself and decodes what comes
  const answer = await client().embeddings.create({ model, input: ["the red car", "a bird"] });
  assert.equal(answer.data.length, 2);
  for (const [index, entry] of answer.data.entries()) {
    assert.equal(entry.index, index);
    assert.equal(entry.embedding.length, 128);
    const length = Math.hypot(...entry.embedding);
    assert.ok(Math.abs(length - 1) < 1e-4, `length ${length}`);
  }
  const plain = await client().embeddings.create({
    model,
    input: "the red car",
    encoding_format: "float",
    dimensions: 8,
  });
  assert.equal(plain.data[0].embedding.length, 8);
  assert.ok(plain.usage.prompt_tokens > 3);
}

export async function rerank() {
  const answer = await client().post("/rerank", {
    body: { model: "BAAI/bge-reranker-v2-m3", query: "a", documents: ["b", "c"], top_n: 1 },
  });
  assert.equal(answer.data.length, 1);
  assert.equal(answer.results.length, 1);
}
