// Shards as boxes, red while no router reaches them, and the routers' table.

import { $, fillTable, h, say } from "../lib/dom.js";
import { bytes, known, NONE, percent, rate, sum, whole } from "../lib/format.js";

const MARKS = { ready: "\u25cf", suspect: "\u25d0", unreachable: "\u2715", loading: "\u25cc", unknown: "?" };
// How worrying a link's state is: of several routers' the worst one counts.
const WORST = ["dead", "suspect", "dialing", "proven", "live"];
const KINDS = { ready: "good", unreachable: "bad", unknown: "" };

/** Whether a shard answers: one that is suspect is late, and is asked all the same where there is no other copy. */
export const serves = (entry) => entry?.state === "ready" || entry?.state === "suspect";

/** Group a snapshot's entries by shard: the one that serves, or the one that was lost, and others on their way. */
export function byShard(snapshot) {
  const groups = new Map();
  for (const entry of snapshot.shards) {
    if (!groups.has(entry.shard)) groups.set(entry.shard, []);
    groups.get(entry.shard).push(entry);
  }
  return [...groups].map(([shard, entries]) => {
    const ready = entries.filter(serves);
    const main = ready[0] ?? entries.find((entry) => entry.state === "unreachable") ?? entries[0];
    const link = WORST.find((state) => main.links?.[state]) ?? "";
    return { shard, link, main, ready, others: entries.filter((entry) => entry !== main && entry.state !== "unreachable") };
  });
}

export class Shards {
  constructor() {
    this.known = new Map();
    this.boxes = new Map();
  }

  snapshot(snapshot) {
    for (const group of byShard(snapshot)) this.known.set(group.shard, group);
    const seen = new Set(snapshot.shards.map((entry) => entry.shard));
    for (const [shard, group] of [...this.known].sort(([a], [b]) => a - b)) {
      if (!seen.has(shard)) group.main = { ...group.main, state: "unknown", rows_per_second: 0 };
      this.show(group, snapshot.balance?.replicas);
    }
    showRouters(snapshot.routers);
  }

  show({ shard, link, main, ready, others }, replicas) {
    const box = this.box(shard);
    // It serves, but somebody waits for it in vain.
    const kind = serves(main) && ["dead", "suspect"].includes(link) ? "warn" : KINDS[main.state] ?? "warn";
    if (box.root.dataset.state !== undefined && box.root.dataset.state !== main.state) {
      say($("announcer"), `Shard ${shard} is ${main.state}`);
    }
    box.root.dataset.state = main.state;
    box.root.dataset.link = link;
    box.root.className = `shard ${kind}`;
    say(box.state, `${MARKS[main.state] ?? "\u25cc"} ${main.state}`);
    box.state.className = `pill ${kind}`;
    const facts = { ...factsOf(main, ready.length, link), experts: replicas ? whole(replicas[shard] ?? 0) : NONE };
    for (const [name, value] of Object.entries(facts)) say(box.facts[name], value);
    box.root.querySelector("[data-pid]").dataset.pid = main.pid;
    const coming = others.map((other) => `replacement ${other.state}, pid ${other.pid}`).join("; ");
    say(box.coming, coming);
    say(box.fault, main.last_error);
  }

  box(shard) {
    if (!this.boxes.has(shard)) this.boxes.set(shard, this.make(shard));
    return this.boxes.get(shard);
  }

  make(shard) {
    const state = h("span", { class: "pill" });
    const facts = {};
    const list = h("dl", { "data-pid": "" });
    for (const name of ["replica", "link", "pid", "node", "rows/s", "memory", "experts", "load"]) {
      facts[name] = h("dd", {});
      list.append(h("div", {}, h("dt", {}, name), facts[name]));
    }
    const [coming, fault] = [h("p", { class: "coming" }), h("p", { class: "fault" })];
    const title = h("h3", {}, `Shard ${shard} `, state);
    const root = h("article", { class: "shard", id: `shard-${shard}`, "aria-label": `Shard ${shard}` }, title, list, coming, fault);
    const after = [...this.boxes].find(([other]) => other > shard);
    $("shards").insertBefore(root, after ? after[1].root : null);
    return { root, state, facts, coming, fault };
  }
}

/** The worst state of the routers' links to a shard, and of how many of them it is where they differ. */
function linkOf({ links = {} }, link) {
  const [number, all] = [links[link], sum(Object.values(links))];
  if (!link) return NONE;
  return number === all ? link : `${link} (${number} of ${all})`;
}

function factsOf(shard, replicas, link) {
  return {
    link: linkOf(shard, link),
    replica: `${shard.replica || NONE}${replicas > 1 ? ` (+${replicas - 1})` : ""}`,
    pid: String(shard.pid || NONE),
    node: shard.node.slice(0, 8) || NONE,
    "rows/s": rate(shard.rows_per_second),
    memory: shard.weights_bytes ? bytes(shard.weights_bytes) : NONE,
    load: known(shard.imbalance, (load) => `${load.toFixed(2)}\u00d7`),
  };
}

function showRouters(routers) {
  const rows = routers.map((router) => [
    router.router,
    String(router.running),
    String(router.waiting),
    rate(router.decode_tokens_per_second),
    percent(router.kv_blocks_used / Math.max(1, router.kv_blocks_total)),
    known(router.overhead_ratio, percent),
  ]);
  if (rows.length) fillTable($("routers"), ["router", "running", "waiting", "tok/s", "KV cache", "all-to-all"], rows);
  else fillTable($("routers"), ["router"], [["no router is linked"]]);
}
