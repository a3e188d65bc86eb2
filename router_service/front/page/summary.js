// The figures of the whole cluster in one row.

import { $, h, say } from "./dom.js";
import { percent, rate } from "./format.js";

const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);
const mean = (rows, name) => (rows.length ? sum(rows, name) / rows.length : 0);

// Name, what it means, value.
const FIGURES = [
  ["Decode", "tokens per second over the last minute's step time", (s) => `${rate(sum(s.routers, "decode_tokens_per_second"))} tok/s`],
  ["Running / waiting", "requests in the batch, and waiting for it", (s) => `${sum(s.routers, "running")} / ${sum(s.routers, "waiting")}`],
  ["KV cache", "share of the blocks in use", (s) => percent(sum(s.routers, "kv_blocks_used") / Math.max(1, sum(s.routers, "kv_blocks_total")))],
  ["All-to-all", "share of step time that is communication", (s) => percent(mean(s.routers, "overhead_ratio"))],
  ["Shard imbalance", "largest over mean load, 1 is even", (s) => mean(s.routers, "shard_imbalance").toFixed(2)],
  ["Expert imbalance", "largest over mean load, 1 is even", (s) => mean(s.routers, "expert_imbalance").toFixed(2)],
];

export class Summary {
  constructor() {
    this.values = FIGURES.map(([name, meaning]) => {
      const value = h("dd", {}, "\u2013");
      $("summary").append(h("div", { title: meaning }, h("dt", {}, name), value));
      return value;
    });
  }

  snapshot(snapshot) {
    FIGURES.forEach(([, , value], index) => say(this.values[index], snapshot.routers.length ? value(snapshot) : "\u2013"));
  }
}
