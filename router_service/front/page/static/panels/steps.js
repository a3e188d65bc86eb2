// The time of the last steps by stage, and of a layer's call to each shard by phase.

import { canvasOf, colour } from "../lib/canvas.js";
import { $, fillTable, h, say } from "../lib/dom.js";
import { counted, known, NONE, percent, seconds, sum } from "../lib/format.js";
import { serves } from "./shards.js";

const HEIGHT = 132;
const AXIS = 52;
const SHOWN = 60;

export class Steps {
  constructor() {
    this.canvas = $("steps");
    document.addEventListener("themechange", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    say($("steps-note"), "No step seen yet.");
  }

  model(model) {
    this.phases = model.phases;
  }

  snapshot(snapshot) {
    if (this.phases) this.showPhases(snapshot.shards);
    if (!snapshot.steps) return;
    this.data = snapshot.steps;
    this.showStages();
    this.draw();
  }

  /** How high the tallest bar may be: a single slow step must not make all others invisible. */
  top() {
    const times = this.data.latest.map(([, , time]) => time).sort((a, b) => a - b);
    return Math.max(1e-6, times[Math.floor(times.length * 0.95)] * 1.15);
  }

  draw() {
    const width = this.canvas.parentElement.clientWidth - 32;
    const context = canvasOf(this.canvas, Math.max(120, width), HEIGHT);
    if (!this.data?.latest.length) return;
    const top = this.top();
    this.axis(context, width, top);
    const step = (width - AXIS) / SHOWN;
    this.data.latest.slice(-SHOWN).forEach(([, , time, stages], index) => {
      const scale = (HEIGHT - 14) / Math.max(top, Math.min(time, top));
      let y = HEIGHT - 1;
      stages.forEach((value, stage) => {
        const height = Math.min(value * scale, y - 4);
        context.fillStyle = colour(`stage-${stage}`);
        context.fillRect(AXIS + index * step, y - height, Math.max(1, step - 1.5), height);
        y -= height;
      });
    });
  }

  axis(context, width, top) {
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const share of [0, 0.5, 1]) {
      const y = HEIGHT - 1 - share * (HEIGHT - 14);
      context.fillStyle = colour("border");
      context.fillRect(AXIS, y, width - AXIS, 1);
      context.fillStyle = colour("muted");
      if (share) context.fillText(seconds(top * share), 0, y);
    }
  }

  showStages() {
    const { stages, stage_seconds: sums, steps_in_window: steps, latest } = this.data;
    const total = sum(sums);
    const kinds = latest.length ? `; the last a ${latest.at(-1)[0]} of ${counted(latest.at(-1)[1], "token")}` : "";
    const idle = `No step in the last 10\u2009s${latest.length ? "; shown are the last ones before" : ""}.`;
    say($("steps-note"), steps ? `${counted(steps, "step")} in the last 10\u2009s, ${seconds(total / steps)} each${kinds}` : idle);
    const rows = stages.map((stage, index) => {
      const swatch = h("span", { class: `swatch stage-${index}`, "aria-hidden": "true" });
      const name = h("span", {}, swatch, stage.replace("_", " "));
      return [name, steps ? seconds(sums[index] / steps) : NONE, total ? percent(sums[index] / total) : NONE];
    });
    fillTable($("stages"), ["stage", "mean a step", "share"], rows);
  }

  showPhases(shards) {
    const rows = shards.filter(serves).map((shard) => [
      `shard ${shard.shard}`,
      ...this.phases.map((phase) => known(shard.phases, (phases) => seconds(phases[phase] ?? 0))),
    ]);
    fillTable($("phases"), ["", ...this.phases], rows);
  }
}
