// The balancer: the placement in use, moves as they happen, what the latest promised and gave, and its silence.

import { $, fillTable, h, say } from "../lib/dom.js";
import { bytes, counted, known, NONE, percent } from "../lib/format.js";

const HEAD = ["time", "placement", "state", "promised", "gave", "copies", "read"];
const GOING = ["preparing", "switched"];
const KINDS = { done: "good", failed: "bad", preparing: "warn", switched: "warn" };

export class Balance {
  snapshot({ balance }) {
    const silent = balance?.silent ? `The balancer is silent: its last look was ${ago(balance.age)}. Requests are served as before.` : "";
    say($("balance-silent"), silent);
    say($("balance-note"), balance ? sentences(balance).join(" ") : "Nothing was heard of a balancer.");
    say($("balance-moving"), moving(balance?.plans[0]));
    this.table(balance?.plans ?? []);
  }

  table(plans) {
    const newest = JSON.stringify(plans);
    if (this.shown === newest) return;
    this.shown = newest;
    if (plans.length) fillTable($("plans"), HEAD, plans.map(row));
    else fillTable($("plans"), HEAD.slice(0, 1), [["no move yet"]]);
  }
}

/** Whole seconds, or minutes: a look is seldom older. */
const ago = (age) => (age < 120 ? `${Math.round(age)}\u2009s ago` : `${counted(Math.round(age / 60), "minute")} ago`);

function sentences(balance) {
  const mode = balance.pinned ? "The placement is pinned" : balance.automatic ? "Experts are moved where that pays" : "Experts are moved on request only";
  const said = [`Placement ${balance.epoch}. ${mode}; copies moved so far: ${balance.copies_moved}.`];
  if (balance.age !== null) said.push(`Last look ${ago(balance.age)}: ${balance.result}${balance.reason ? `, ${balance.reason}` : ""}.`);
  return said;
}

function moving(plan) {
  if (!GOING.includes(plan?.state)) return "";
  const how = plan.state === "preparing" ? `${plan.ready} of ${counted(plan.loading, "shard")} have loaded` : "routers change over";
  return `Moving to placement ${plan.epoch}: ${how}.`;
}

function row(plan) {
  const state = h("span", { class: `pill ${KINDS[plan.state] ?? ""}`, title: plan.reason }, plan.state);
  return [
    new Date((plan.ended ?? plan.began) * 1000).toLocaleTimeString(),
    String(plan.epoch),
    state,
    plan.predicted ? percent(plan.predicted) : NONE,
    known(plan.measured, percent),
    `+${plan.added} \u2212${plan.dropped}`,
    bytes(plan.bytes),
  ];
}
