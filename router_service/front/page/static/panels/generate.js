// A generation: started, watched token by token, stopped.

import { Chat } from "./chat.js";
import { $, say } from "../lib/dom.js";
import { counted, rate, seconds, whole } from "../lib/format.js";
import { events, request } from "../lib/sse.js";
import { Tokens } from "./tokens.js";

// Of a chat, until the user says otherwise: an answer and some reasoning.
const CHAT_TOKENS = 512;

export class Generation {
  constructor() {
    this.tokens = new Tokens();
    this.chat = new Chat();
    this.most = { prompt: Infinity, chat: Infinity };
    this.drafts = { prompt: {}, chat: { prompt: "", "max-tokens": CHAT_TOKENS } };
    this.handlers = {
      tokens: (data) => this.addTokens(data),
      routing: (data) => this.tokens.addRouting(data),
      delta: (data) => this.chat.delta(data),
      end: (data) => this.end(data),
      error: ({ error }) => {
        throw new Error(error);
      },
    };
    this.reset();
    $("generate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    $("stop").addEventListener("click", () => this.controller?.abort());
    $("forget").addEventListener("click", () => this.forget());
    $("modes").addEventListener("change", () => this.changeMode());
    $("generate").addEventListener("keydown", (event) => this.key(event));
  }

  model(model) {
    $("modes").hidden = false;
    this.chat.model(model);
    const room = model.context - 1;
    this.most = { prompt: Math.min(model.max_new_tokens, room), chat: Math.min(model.max_chat_tokens, room) };
    this.pictured = [model.max_prompt_tokens, model.max_new_tokens];
    this.bound();
  }

  /** Bound the tokens of an answer by what this mode may ask for. */
  bound() {
    $("max-tokens").max = this.most[this.mode];
    $("max-tokens").value = Math.min($("max-tokens").value, this.most[this.mode]);
  }

  reset() {
    this.tokens.clear();
    this.finish = undefined;
    this.leftOut = "";
  }

  get mode() {
    return document.querySelector("#modes [name=mode]:checked").value;
  }

  get chatting() {
    return this.mode === "chat";
  }

  /** Each mode keeps its own text and number of tokens, and the chat its turns. */
  changeMode() {
    const before = this.drafts[this.chatting ? "prompt" : "chat"];
    for (const id of ["prompt", "max-tokens"]) {
      before[id] = $(id).value;
      $(id).value = this.drafts[this.mode][id];
    }
    this.bound();
    $("prompt").placeholder = this.chatting ? "Enter sends, Shift+Enter begins a line, Escape stops" : "";
    say($("prompt-label"), this.chatting ? "Message" : "Prompt");
    say($("start"), this.chatting ? "Send" : "Generate");
    $("forget").hidden = !this.chatting;
    this.chat.show(this.chatting);
  }

  forget() {
    this.chat.clear();
    this.reset();
    say($("generate-status"), "");
    $("prompt").focus();
  }

  /** In a chat Enter sends; in both modes Ctrl+Enter does, and Escape stops. Not while a word is composed (IME). */
  key(event) {
    if (event.isComposing) return;
    if (event.key === "Escape" && this.running) {
      event.preventDefault();
      this.controller.abort();
    }
    const box = event.target.matches("#prompt, .result");
    if (event.key !== "Enter" || !box || event.shiftKey || !(this.chatting || event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    $("generate-form").requestSubmit();
  }

  /** The request's body; an empty number leaves the field to the model's own defaults. */
  body() {
    const numbers = { max_tokens: $("max-tokens").value, temperature: $("temperature").value, seed: $("seed").value };
    const body = Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== "").map(([k, v]) => [k, Number(v)]));
    if ($("fallback").value) body.fallback = $("fallback").value;
    const text = $("prompt").value;
    return this.chatting ? { ...body, ...this.chat.request(text) } : { ...body, prompt: text };
  }

  async run() {
    if (this.running) return;
    let body;
    try {
      body = this.body();
    } catch (error) {
      return say($("generate-status"), error.message);
    }
    await this.answer(body);
  }

  async answer(body) {
    const chat = body.messages ? this.chat : null;
    this.reset();
    this.controller = new AbortController();
    this.busy(true);
    say($("generate-status"), "Waiting for the first token \u2026");
    this.begun = performance.now();
    chat?.begin();
    let note = "";
    try {
      const response = await request("api/generate", { body, signal: this.controller.signal });
      for await (const [kind, data] of events(response)) this.handlers[kind]?.(data);
      if (this.finish === undefined) throw new Error("the connection was lost");
    } catch (error) {
      const stopped = error.name === "AbortError";
      note = stopped ? `Stopped after ${counted(this.tokens.generated, "token")}.` : `Failed: ${error.message}`;
      say($("generate-status"), note + this.leftOut);
    }
    chat?.end(this.finish, note);
    this.busy(false);
  }

  busy(running) {
    this.running = running;
    $("start").disabled = running;
    $("stop").disabled = !running;
    $("forget").disabled = $("modes").inert = running;
    this.tokens.busy(running);
    // A disabled button loses the focus; it goes to what can be pressed next.
    if (document.activeElement === document.body) $(running ? "stop" : this.chatting ? "prompt" : "start").focus();
  }

  addTokens(data) {
    for (const token of data.tokens) this.tokens.add({ ...token, generated: data.generated });
    if (data.left_out) this.leaveOut(data.left_out);
    if (!data.generated) return;
    const [number, elapsed] = [this.tokens.generated, (performance.now() - this.begun) / 1000];
    say($("generate-status"), `Generating: ${counted(number, "token")}, ${rate(number / elapsed)} a second`);
  }

  /** No token has a picture: a chat whose prompt has `given` tokens, or whose answer may have many. */
  leaveOut(given) {
    const [prompt, answer] = this.pictured.map(whole);
    this.tokens.plain = true;
    this.leftOut = ` Without the experts, which are shown up to ${prompt} tokens of a prompt (it has ${whole(given)}) and ${answer} of an answer.`;
  }

  end({ finish, usage }) {
    this.finish = finish;
    const { generated_tokens: number, decode_seconds: spent } = usage;
    const speed = number > 1 && spent > 0 ? `, ${rate((number - 1) / spent)} tokens a second` : "";
    const degraded = usage.degraded_tokens ? `, ${usage.degraded_tokens} of them without some of their experts` : "";
    const first = seconds(usage.queue_seconds + usage.prefill_seconds);
    say($("generate-status"), `Ended (${finish}): ${counted(number, "token")}${degraded}${speed}, the first after ${first}.${this.leftOut}`);
  }
}
