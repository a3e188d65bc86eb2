// All experts as a grid, layer by expert, grouped by the shard that holds them.

import { blend, canvasOf, colour } from "./canvas.js";
import { $, h, say } from "./dom.js";
import { bytes, counted, percent, sum } from "./format.js";
import { byShard } from "./shards.js";

const LABEL_WIDTH = 34;
const HEAD_HEIGHT = 34;
const GAP = 10;
// A cell's width and height, widest first; the figure in it is drawn in the widest only.
const CELLS = [[34, 26], [18, 18], [9, 12]];

const meanOf = (tokens) => sum(tokens) / tokens.length;

export class Experts {
  constructor() {
    this.box = $("experts");
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.box.append(this.canvas);
    this.cursor = null;
    this.box.addEventListener("pointermove", (event) => this.point(event));
    this.box.addEventListener("pointerleave", () => this.choose(document.activeElement === this.box ? this.cursor : null));
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("focus", () => this.choose(this.cursor ?? [0, 0]));
    document.addEventListener("themechange", () => this.draw());
    say($("expert-detail"), "No tokens seen yet.");
  }

  model(model) {
    this.info = model;
  }

  snapshot(snapshot) {
    this.shards = new Map(byShard(snapshot).map((group) => [group.shard, group]));
    this.memory(snapshot);
    if (!snapshot.experts) return;
    this.data = snapshot.experts;
    this.place();
    this.draw();
    this.choose(this.cursor);
  }

  /** The widest cells with which all experts fit beside each other, or the narrowest. */
  chooseCell() {
    const { holders } = this.data;
    const gaps = GAP * (new Set(holders.map(([shard]) => shard)).size - 1);
    const room = (this.box.clientWidth - LABEL_WIDTH - gaps - 1) / holders.length;
    const [width, height] = CELLS.find(([wide]) => wide <= room) ?? CELLS.at(-1);
    this.cell = { width, height, figures: width === CELLS[0][0] };
    $("experts-figures").hidden = !this.cell.figures;
  }

  /** Columns in the order of the shards: x position and width of each expert. */
  place() {
    const { holders } = this.data;
    this.chooseCell();
    this.order = holders.map((_, expert) => expert).sort((a, b) => holders[a][0] - holders[b][0] || a - b);
    let x = LABEL_WIDTH;
    this.left = this.order.map((expert, column) => {
      if (column && holders[this.order[column - 1]][0] !== holders[expert][0]) x += GAP;
      x += this.cell.width;
      return x - this.cell.width;
    });
    this.width = x + 1;
    this.height = HEAD_HEIGHT + this.data.layers.length * this.cell.height + 1;
  }

  draw() {
    if (!this.data) return;
    const context = canvasOf(this.canvas, this.width, this.height);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    this.heads(context);
    this.data.tokens.forEach((row, index) => this.row(context, row, index));
    if (this.cursor) this.outline(context, this.cursor);
  }

  heads(context) {
    const { holders } = this.data;
    this.order.forEach((expert, column) => {
      const shard = holders[expert][0];
      if (column && holders[this.order[column - 1]][0] === shard) return;
      const state = this.shards.get(shard)?.main.state ?? "unknown";
      context.fillStyle = state === "ready" ? colour("text") : colour("bad");
      context.textAlign = "left";
      context.fillText(state === "ready" ? `shard ${shard}` : `shard ${shard} \u2715 ${state}`, this.left[column], 8);
    });
    context.fillStyle = colour("muted");
    context.textAlign = "center";
    const every = this.cell.width >= 18 ? 1 : 4;
    this.order.forEach((expert, column) => {
      if (column % every === 0) context.fillText(String(expert), this.left[column] + this.cell.width / 2, 25);
    });
  }

  row(context, tokens, index) {
    const y = HEAD_HEIGHT + index * this.cell.height;
    const mean = meanOf(tokens);
    const most = Math.max(...tokens, 1);
    context.fillStyle = colour("muted");
    context.textAlign = "left";
    context.fillText(`L${this.data.layers[index]}`, 2, y + this.cell.height / 2);
    context.textAlign = "center";
    this.order.forEach((expert, column) => {
      const lost = this.shards.get(this.data.holders[expert][0])?.main.state !== "ready";
      const text = this.paint(context, this.left[column], y, tokens[expert] / most, lost);
      if (!this.cell.figures || !mean) return;
      context.fillStyle = text;
      context.fillText((tokens[expert] / mean).toFixed(1), this.left[column] + this.cell.width / 2, y + this.cell.height / 2);
    });
  }

  /** Paint a cell; the colour for text on it is returned. */
  paint(context, x, y, share, lost) {
    const [width, height] = [this.cell.width - 2, this.cell.height - 2];
    const { fill, text } = blend("inset", lost ? "bad" : "heat", share ? 0.08 + 0.92 * share : 0);
    context.fillStyle = fill;
    context.fillRect(x, y, width, height);
    if (lost) this.cross(context, x, y, width, height, text);
    return text;
  }

  /** For those who do not see the red. */
  cross(context, x, y, width, height, style) {
    context.strokeStyle = style;
    context.globalAlpha = 0.35;
    context.beginPath();
    context.moveTo(x, y + height);
    context.lineTo(x + width, y);
    context.stroke();
    context.globalAlpha = 1;
  }

  outline(context, [row, column]) {
    context.strokeStyle = colour("text");
    context.lineWidth = 2;
    context.strokeRect(this.left[column], HEAD_HEIGHT + row * this.cell.height, this.cell.width - 2, this.cell.height - 2);
  }

  point(event) {
    if (!this.data) return;
    const at = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - at.left, event.clientY - at.top - HEAD_HEIGHT];
    const column = this.left.findIndex((left) => x >= left && x < left + this.cell.width);
    const row = Math.floor(y / this.cell.height);
    this.choose(column >= 0 && row >= 0 && row < this.data.layers.length ? [row, column] : null);
  }

  key(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move || !this.data) return;
    event.preventDefault();
    const [row, column] = this.cursor ?? [0, 0];
    const clamp = (value, most) => Math.max(0, Math.min(most - 1, value));
    this.choose([clamp(row + move[0], this.data.layers.length), clamp(column + move[1], this.order.length)]);
    const left = this.left[this.cursor[1]];
    this.box.scrollLeft = Math.min(Math.max(this.box.scrollLeft, left + 40 - this.box.clientWidth), left - LABEL_WIDTH);
  }

  choose(cursor) {
    const moved = String(cursor) !== String(this.cursor);
    this.cursor = cursor;
    if (!this.data) return;
    if (moved) this.draw();
    say($("expert-detail"), cursor ? this.describe(cursor) : "Point at a cell, or use the arrow keys, for its figures.");
  }

  describe([row, column]) {
    const { holders, layers, tokens } = this.data;
    const expert = this.order[column];
    const mean = meanOf(tokens[row]);
    const load = mean ? ` (${(tokens[row][expert] / mean).toFixed(2)} \u00d7 the layer's mean)` : "";
    const places = holders[expert].map((shard) => `shard ${shard}, ${this.shards.get(shard)?.main.state ?? "unknown"}`);
    const [found, copies] = [counted(tokens[row][expert], "token"), counted(holders[expert].length, "replica")];
    return `Layer ${layers[row]}, expert ${expert}: ${found}${load}; ${copies} on ${places.join("; ")}`;
  }

  /** What the loaded experts weigh beside what one token uses, which a lost shard does not change. */
  memory(snapshot) {
    const ready = snapshot.shards.filter((shard) => shard.state === "ready");
    const [loaded, held] = ["weights_bytes", "experts"].map((name) => sum(ready.map((shard) => shard[name])));
    if (!this.info || !loaded || !held) return;
    const { experts_per_token: chosen, experts, moe_layers: layers } = this.info;
    const [serving, all] = [new Set(ready.map((shard) => shard.shard)).size, this.shards.size];
    const on = `${serving < all ? `${serving} of ` : ""}${counted(all, "shard")}`;
    const used = `${bytes((loaded / held) * chosen * layers)}: ${chosen} of ${experts} in each layer, ${percent(chosen / experts)}`;
    this.showMemory(`${bytes(loaded)} loaded on ${on}; a token uses ${used}`, chosen / experts);
  }

  showMemory(text, share) {
    if (this.memoryText === text) return;
    this.memoryText = text;
    const bar = h("span", {});
    bar.style.width = `${share * 100}%`;
    $("memory").replaceChildren(h("div", { class: "bar", "aria-hidden": "true" }, bar), h("p", { class: "note" }, text));
  }
}
