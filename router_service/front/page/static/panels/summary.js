// The figures of the whole cluster in one row; the server has made one of all routers'.

import { $, h, say } from "../lib/dom.js";
import { known, NONE, percent, rate } from "../lib/format.js";

const ratio = (value) => known(value, (number) => number.toFixed(2));

// Name, what it means, value.
const FIGURES = [
  ["Decode", "tokens per second over the last minute's step time", (s) => `${rate(s.decode_tokens_per_second)} tok/s`],
  ["Running / waiting", "requests in the batch, and waiting for it", (s) => `${s.running} / ${s.waiting}`],
  ["KV cache", "share of the blocks in use", (s) => percent(s.kv_share)],
  ["All-to-all", "share of the last minute's step time that is communication", (s) => known(s.overhead_ratio, percent)],
  ["Shard imbalance", "largest over mean load, 1 is even", (s) => ratio(s.shard_imbalance)],
  ["Expert imbalance", "largest over mean load, 1 is even", (s) => ratio(s.expert_imbalance)],
];

export class Summary {
  constructor() {
    this.values = FIGURES.map(([name, meaning]) => {
      const value = h("dd", {}, NONE);
      $("summary").append(h("div", { title: meaning }, h("dt", {}, name), value));
      return value;
    });
  }

  snapshot({ summary }) {
    FIGURES.forEach(([, , value], index) => say(this.values[index], known(summary, value)));
  }
}
