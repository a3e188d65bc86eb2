// A conversation in the form of OpenAI's API, and an answer as it is put together from its deltas.

/** What has come of one answer. */
export class Answer {
  constructor() {
    this.text = "";
    this.reasoning = "";
    this.calls = [];
  }

  /** Take a delta; returns the calls that it is about. */
  add({ text = "", reasoning = "", tool_calls: deltas = [] }) {
    this.text += text;
    this.reasoning += reasoning;
    for (const { index, id, name, arguments: more } of deltas) {
      const call = (this.calls[index] ??= { id: "", name: "", arguments: "" });
      Object.assign(call, { id: call.id + id, name: call.name + name, arguments: call.arguments + more });
    }
    return deltas.map(({ index }) => index);
  }

  /** The assistant's message; null if nothing came. Calls that were cut are left out: their arguments are no JSON. */
  message(whole) {
    const calls = whole ? this.calls : [];
    if (!this.text && !this.reasoning && calls.length === 0) return null;
    const message = { role: "assistant", content: this.text };
    if (this.reasoning) message.reasoning_content = this.reasoning;
    if (calls.length) message.tool_calls = calls.map(({ id, ...called }) => ({ id, type: "function", function: called }));
    return message;
  }
}

/** The tools of a text; throws an error for the user if it is no list of them. */
export function toolsOf(text) {
  if (text.trim() === "") return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools: ${error.message}`);
  }
  const list = Array.isArray(tools) ? tools : [tools];
  if (list.some((tool) => typeof tool?.function?.name !== "string")) {
    throw new Error('Tools: must be a JSON list of objects such as {"type": "function", "function": {"name": "look"}}.');
  }
  return list;
}
