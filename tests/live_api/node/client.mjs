import OpenAI from "openai";

const { BASE_URL, API_KEY } = process.env;

export const HELLO = [{ role: "user", content: "Hello!" }];

// The client as users set it up; a failed request is not sent again, so that it shows.
export function client(options = {}) {
  return new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, ...options });
}

export function said(content) {
  return [{ role: "user", content }];
}

export async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
