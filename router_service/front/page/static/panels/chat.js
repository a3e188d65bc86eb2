// The chat: its turns, and what it tells the model beside them. Who generates calls `request`, `begin`, `delta`, `end`.

import { Answer, toolsOf } from "../lib/conversation.js";
import { $ } from "../lib/dom.js";
import { AnswerTurn, resultTurn, userTurn } from "./turn.js";

const NO_TEMPLATE = "There is no chat: the model has no chat template. A server with --chat-template FILE gives it one.";
const ENDS = {
  length: "Cut: no more tokens.",
  cancelled: "Cut: the server shut down.",
  tool_calls: "Say what the tools returned, then send.",
};

export class Chat {
  constructor() {
    this.list = $("talk");
    this.clear();
  }

  model({ has_chat_template: can, thinking }) {
    document.querySelector("#modes [value=chat]").disabled = !can;
    $("no-chat").textContent = can ? "" : NO_TEMPLATE;
    $("thinking-switch").hidden = !thinking;
  }

  show(shown) {
    $("chat").hidden = !shown;
  }

  clear() {
    this.messages = [];
    this.last = null;
    this.list.replaceChildren();
    this.list.hidden = true;
  }

  /** What to send for the text in the box; throws an error for the user. */
  request(text) {
    const results = this.results();
    if (!text.trim() && results.length === 0) throw new Error("Write a message first.");
    const added = [...results.map(({ id, content }) => ({ role: "tool", tool_call_id: id, content }))];
    if (text.trim()) added.push({ role: "user", content: text });
    const system = $("system").value.trim();
    const body = { messages: [...(system ? [{ role: "system", content: system }] : []), ...this.messages, ...added] };
    const tools = toolsOf($("tools").value);
    if (tools.length) body.tools = tools;
    if ($("thinking").value) body.template_kwargs = { enable_thinking: $("thinking").value === "on" };
    this.next = { added, results, text };
    return body;
  }

  /** What is in the boxes for the latest answer's calls; if anything is, each call has its result. */
  results() {
    const boxes = [...(this.last?.turn.calls.querySelectorAll(".result") ?? [])].map((box) => box.value);
    if (!boxes.some((value) => value.trim())) return [];
    return this.last.answer.calls.map(({ id, name }, index) => ({ id, name, content: boxes[index] ?? "" }));
  }

  /** The request is on its way: show what was said. */
  begin() {
    const { results, text } = this.next;
    const turn = new AnswerTurn();
    const said = [...results.map(({ name, content }) => resultTurn(name, content)), ...(text.trim() ? [userTurn(text)] : [])];
    this.before = this.last;
    this.last = { answer: new Answer(), turn, said };
    this.list.hidden = false;
    this.list.setAttribute("aria-busy", "true");
    this.list.append(...said, turn.root);
    this.list.scrollTop = this.list.scrollHeight;
    $("prompt").value = "";
  }

  delta(data) {
    const { answer, turn } = this.last;
    const changed = answer.add(data);
    this.following(() => {
      if (data.reasoning) turn.reason(data.reasoning);
      if (data.text) turn.speak(data.text);
      for (const index of changed) turn.call(index, answer.calls[index]);
    });
  }

  /** Let the list grow; whoever sees its end goes on seeing it. */
  following(grow) {
    const follow = this.list.scrollTop + this.list.clientHeight >= this.list.scrollHeight - 8;
    grow();
    if (follow) this.list.scrollTop = this.list.scrollHeight;
  }

  /** The answer is over: `finish` names how it ended; undefined, it was stopped or has failed, which `note` says. */
  end(finish, note = "") {
    const { answer, turn, said } = this.last;
    this.list.setAttribute("aria-busy", "false");
    const message = answer.message(finish !== undefined);
    if (message === null) return this.takeBack(said, turn);
    this.before?.turn.takeResults();
    this.messages.push(...this.next.added, message);
    turn.end(finish === undefined ? note : ENDS[finish] ?? "");
    if (message.tool_calls) this.following(() => turn.askResults());
  }

  /** Nothing came: two turns of the user after each other are refused by many templates, so this one is no turn. */
  takeBack(said, turn) {
    for (const element of [...said, turn.root]) element.remove();
    this.last = this.before;
    this.list.hidden = this.list.childElementCount === 0;
    if ($("prompt").value === "") $("prompt").value = this.next.text;
  }
}
