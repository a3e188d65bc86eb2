// A generation: started, watched token by token, stopped.

import { $, h, say } from "../lib/dom.js";
import { counted, rate, seconds, visible } from "../lib/format.js";
import { Routing } from "./routing.js";
import { events, request } from "../lib/sse.js";

const MAX_MESSAGES = 20;

export class Generation {
  constructor() {
    this.list = $("tokens");
    this.routing = new Routing($("routing"));
    this.chat = [];
    this.handlers = {
      tokens: (data) => this.addTokens(data),
      routing: (data) => this.addRouting(data),
      end: (data, body) => this.end(data, body),
      error: (data) => say($("generate-status"), `Failed: ${data.error}`),
    };
    this.reset();
    $("generate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    $("stop").addEventListener("click", () => this.controller?.abort());
    $("forget").addEventListener("click", () => this.forget());
    $("modes").addEventListener("change", () => this.changeMode());
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("generate-form").requestSubmit();
    });
    this.list.addEventListener("click", (event) => this.pick(event.target.closest("[role=option]")));
    this.list.addEventListener("keydown", (event) => this.key(event));
  }

  model(model) {
    $("modes").hidden = !model.has_chat_template;
    $("max-tokens").max = Math.min(model.max_new_tokens, model.context - 1);
  }

  reset() {
    this.tokens = [];
    this.positions = [];
    this.selected = -1;
    this.list.replaceChildren();
    this.list.removeAttribute("aria-activedescendant");
    this.routing.clear();
  }

  get chatting() {
    return new FormData($("generate-form")).get("mode") === "chat";
  }

  changeMode() {
    $("prompt").value = this.chatting ? "Document shutil.copyfile" : "def read_file(path):";
    $("forget").hidden = !this.chatting;
    this.forget();
  }

  forget() {
    this.chat = [];
    this.reset();
    say($("generate-status"), "");
  }

  /** The request's body; an empty number leaves the field to the model's own defaults. */
  body() {
    const numbers = { max_tokens: $("max-tokens").value, temperature: $("temperature").value, seed: $("seed").value };
    const body = Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== "").map(([k, v]) => [k, Number(v)]));
    if ($("fallback").value) body.fallback = $("fallback").value;
    const text = $("prompt").value;
    if (!this.chatting) return { ...body, prompt: text };
    return { ...body, messages: [...this.chat, { role: "user", content: text }].slice(-MAX_MESSAGES) };
  }

  async run() {
    const body = this.body();
    this.reset();
    this.controller = new AbortController();
    this.busy(true);
    say($("generate-status"), "Waiting for the first token \u2026");
    this.begun = performance.now();
    try {
      const response = await request("api/generate", { body, signal: this.controller.signal });
      for await (const [kind, data] of events(response)) this.handlers[kind]?.(data, body);
    } catch (error) {
      const stopped = error.name === "AbortError";
      say($("generate-status"), stopped ? `Stopped after ${counted(this.generated.length, "token")}.` : `Failed: ${error.message}`);
    }
    this.busy(false);
  }

  busy(running) {
    $("start").disabled = running;
    $("stop").disabled = !running;
    this.list.setAttribute("aria-busy", String(running));
    // A disabled button loses the focus; it goes to what can be pressed next.
    if (document.activeElement === document.body) $(running ? "stop" : "start").focus();
  }

  get generated() {
    return this.tokens.filter((token) => token.generated && token.id !== null);
  }

  addTokens(data) {
    for (const token of data.tokens) this.add({ ...token, generated: data.generated });
    if (!data.generated) return;
    const [number, elapsed] = [this.generated.length, (performance.now() - this.begun) / 1000];
    say($("generate-status"), `Generating: ${counted(number, "token")}, ${rate(number / elapsed)} a second`);
  }

  add(token) {
    const index = this.tokens.push(token) - 1;
    const kind = `token${token.generated ? "" : " given"}${token.special ? " special" : ""}${token.degraded ? " degraded" : ""}`;
    const text = token.text === "" ? "\u2205" : token.text;
    const option = h("span", { class: kind, role: "option", id: `token-${index}`, "aria-selected": "false" }, text);
    const follow = this.list.scrollTop + this.list.clientHeight >= this.list.scrollHeight - 8;
    this.list.append(option);
    if (follow) this.list.scrollTop = this.list.scrollHeight;
  }

  end({ finish, usage }, body) {
    const { generated_tokens: number, decode_seconds: spent } = usage;
    const speed = number > 1 && spent > 0 ? `, ${rate((number - 1) / spent)} tokens a second` : "";
    const degraded = usage.degraded_tokens ? `, ${usage.degraded_tokens} of them without some of their experts` : "";
    const first = seconds(usage.queue_seconds + usage.prefill_seconds);
    say($("generate-status"), `Ended (${finish}): ${counted(number, "token")}${degraded}${speed}, the first after ${first}.`);
    if (!body.messages) return;
    const answer = this.tokens.filter((token) => token.generated && !token.special).map((token) => token.text).join("");
    this.chat = [...body.messages, { role: "assistant", content: answer }];
  }

  addRouting(positions) {
    const before = this.positions.length;
    this.positions.push(...positions);
    if (this.selected >= before && this.selected < this.positions.length) this.showSelected();
  }

  key(event) {
    const last = this.tokens.length - 1;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8, Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || last < 0) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(last, this.selected + moves[event.key])));
  }

  pick(option) {
    if (option) this.select(Number(option.id.slice("token-".length)));
  }

  select(index) {
    $(`token-${this.selected}`)?.setAttribute("aria-selected", "false");
    this.selected = index;
    const option = $(`token-${index}`);
    option.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", option.id);
    // Not scrollIntoView: it would move the whole page.
    const low = option.offsetTop - this.list.offsetTop;
    this.list.scrollTop = Math.max(Math.min(this.list.scrollTop, low), low + option.offsetHeight - this.list.clientHeight);
    this.showSelected();
  }

  showSelected() {
    const token = this.tokens[this.selected];
    const origin = `${token.generated ? "" : ", of the prompt"}${token.degraded ? ", degraded" : ""}`;
    const title = `Token ${this.selected} \u201c${visible(token.text)}\u201d${origin}`;
    this.routing.show(title, this.positions[this.selected]);
  }
}
