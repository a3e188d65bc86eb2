// Copies of experts, the latest failovers, and what could not be answered in full.

import { $, fillTable, say } from "../lib/dom.js";
import { counted, NONE, seconds } from "../lib/format.js";
import { allHolders } from "../lib/placement.js";

const HEAD = ["time", "shard", "reason", "took", "router"];

/** A range where experts differ: "2 shards", "1 to 2 shards". */
function shards(numbers) {
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  return least === most ? counted(least, "shard") : `${least} to ${counted(most, "shard")}`;
}

export class Failure {
  snapshot({ failure, experts }) {
    // Of a router without activity the last placement stays: it seldom changes.
    this.holders = experts ? allHolders(experts).flat() : this.holders;
    say($("failure-note"), this.sentences(failure).join(" "));
    this.table(failure.failovers);
  }

  sentences({ unavailable_experts: gone, degraded_tokens: degraded, epoch }) {
    const said = [];
    if (this.holders) said.push(`Each expert is on ${shards(this.holders.map((on) => on.length))} (placement ${epoch}).`);
    if (gone) said.push(`${counted(gone, "expert")} of a layer without a living copy.`);
    if (degraded) said.push(`${counted(degraded, "token")} degraded since the routers started.`);
    return said;
  }

  table(failovers) {
    const newest = JSON.stringify(failovers);
    if (this.shown === newest) return;
    this.shown = newest;
    const rows = failovers.map((one) => [
      new Date(one.at * 1000).toLocaleTimeString(),
      one.shard < 0 ? NONE : String(one.shard),
      one.reason,
      seconds(one.seconds),
      one.router,
    ]);
    if (rows.length) fillTable($("failovers"), HEAD, rows);
    else fillTable($("failovers"), HEAD.slice(0, 1), [["none seen"]]);
  }
}
