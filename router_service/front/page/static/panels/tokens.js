// The tokens of a prompt and its answer, one of which may be selected to see where it was routed.

import { $, h } from "../lib/dom.js";
import { visible } from "../lib/format.js";
import { Routing } from "./routing.js";

export class Tokens {
  constructor() {
    this.list = $("tokens");
    this.routing = new Routing($("routing"));
    this.list.addEventListener("click", (event) => this.pick(event.target.closest("[role=option]")));
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.clear();
  }

  clear() {
    this.tokens = [];
    this.positions = [];
    this.selected = -1;
    this.generated = 0; // of them, those that have an id
    this.plain = false; // if set, tokens are only counted
    this.list.replaceChildren();
    this.list.removeAttribute("aria-activedescendant");
    this.routing.clear();
  }

  busy(running) {
    this.list.setAttribute("aria-busy", String(running));
  }

  add(token) {
    if (token.generated && token.id !== null) this.generated += 1;
    if (!this.plain) this.append(token);
  }

  append(token) {
    const index = this.tokens.push(token) - 1;
    const kind = `token${token.generated ? "" : " given"}${token.special ? " special" : ""}${token.degraded ? " degraded" : ""}`;
    const text = token.text === "" ? "\u2205" : token.text;
    const option = h("span", { class: kind, role: "option", id: `token-${index}`, "aria-selected": "false" }, text);
    const follow = this.list.scrollTop + this.list.clientHeight >= this.list.scrollHeight - 8;
    this.list.append(option);
    if (follow) this.list.scrollTop = this.list.scrollHeight;
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
