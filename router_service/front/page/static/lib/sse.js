// Server-sent events over fetch: EventSource can neither POST, nor send a token, nor say why it was refused.

import { ask, authorization } from "./token.js";

/** An answer that is an error; `message` is the server's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Fetch and return the response, or throw `Refused` with what the server says; a missing token is asked for. */
export async function request(path, { body, signal } = {}) {
  const headers = authorization();
  const options = body === undefined ? { headers } : {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, { ...options, signal, cache: "no-store" });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) ask(answer.error);
  throw new Refused(response.status, answer.error ?? `the server answered ${response.status}`);
}

/** Yield each event of a response as [kind, data]. */
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (waiting + decoder.decode(value, { stream: true })).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) yield parse(block);
  }
}

function parse(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => {
    const colon = line.indexOf(": ");
    return [line.slice(0, colon), line.slice(colon + 2)];
  }));
  return [fields.event, JSON.parse(fields.data)];
}
