// One turn of a chat as it is seen: what was said, the reasoning folded, tool calls with room for their results.

import { h, say } from "../lib/dom.js";

/** The user's turn. */
export const userTurn = (text) => h("article", { class: "turn user" }, h("h4", {}, "You"), h("p", { class: "said" }, text));

/** The results of tools, as they went to the model. */
export const resultTurn = (name, text) =>
  h("article", { class: "turn tool" }, h("h4", {}, `Result of ${name}`), h("pre", { class: "said" }, text));

/** The model's turn, which grows while it comes. */
export class AnswerTurn {
  constructor() {
    this.summary = h("summary", {}, "Reasoning \u2026");
    this.reasoning = h("p", { class: "said" });
    this.details = h("details", { class: "reasoning", hidden: true }, this.summary, this.reasoning);
    this.text = h("p", { class: "said" });
    this.calls = h("ul", { class: "calls", hidden: true });
    this.note = h("p", { class: "note" });
    this.root = h("article", { class: "turn assistant" }, h("h4", {}, "Model"), this.details, this.text, this.calls, this.note);
  }

  reason(text) {
    this.details.hidden = false;
    this.reasoning.append(text);
  }

  speak(text) {
    this.text.append(text);
    this.reasoned();
  }

  /** Show a call as far as it has come. */
  call(index, { name, arguments: given }) {
    this.reasoned();
    this.calls.hidden = false;
    const item = this.calls.children[index] ?? this.calls.appendChild(h("li", { class: "call" }, h("code", {}), h("pre", {})));
    say(item.querySelector("code"), name);
    say(item.querySelector("pre"), given);
  }

  /** Give each call a box for what its tool returned. */
  askResults() {
    for (const item of this.calls.children) {
      const name = item.querySelector("code").textContent;
      item.append(h("label", {}, `What ${name} returned`, h("textarea", { rows: "2", spellcheck: "false", class: "result" })));
    }
  }

  /** Take the boxes away and return what is in them. */
  takeResults() {
    const boxes = [...this.calls.querySelectorAll(".result")];
    for (const box of boxes) box.parentElement.remove();
    return boxes.map((box) => box.value);
  }

  reasoned() {
    say(this.summary, "Reasoning");
  }

  /** The turn is over; `note` says how, if that is worth a word. */
  end(note = "") {
    this.reasoned();
    say(this.note, note);
  }
}
