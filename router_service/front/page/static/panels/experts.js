// All experts as a grid, layer by expert: grouped by the shard that holds them, or, where layers differ, in their own order
// with the colours of their shards.

import { blend, canvasOf, colour } from "../lib/canvas.js";
import { $, h, say } from "../lib/dom.js";
import { bytes, counted, percent, sum } from "../lib/format.js";
import { allHolders, differs, holdersOf, uneven } from "../lib/placement.js";
import { legend, strip } from "./strips.js";
import { byShard, serves } from "./shards.js";

const LABEL_WIDTH = 34;
const HEAD_HEIGHT = 34;
const GAP = 10;
// Widths of a cell: the least, what a digit takes, from where on there is a figure in it, and the most.
const [LEAST, DIGIT, FIGURE, MOST] = [9, 7, 30, 34];

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
    this.rows = allHolders(this.data);
    this.mixed = differs(this.data);
    this.strips = this.mixed || uneven(this.data);
    $("experts-strips").hidden = !this.strips;
    this.place();
    this.draw();
    this.choose(this.cursor);
  }

  /** As wide as all experts fit beside each other. */
  chooseCell() {
    const { holders } = this.data;
    const gaps = this.mixed ? 0 : GAP * (new Set(holders.map(([shard]) => shard)).size - 1);
    const room = Math.floor((this.box.clientWidth - LABEL_WIDTH - gaps - 1) / holders.length);
    const width = Math.max(LEAST, Math.min(MOST, room));
    this.cell = { width, height: width >= FIGURE ? 26 : width >= 14 ? 18 : 12, figures: width >= FIGURE };
    $("experts-figures").hidden = !this.cell.figures;
  }

  /** Columns in the order of the shards, or of the experts where layers differ: the x position of each. */
  place() {
    const { holders } = this.data;
    this.chooseCell();
    this.order = holders.map((_, expert) => expert);
    if (!this.mixed) this.order.sort((a, b) => holders[a][0] - holders[b][0] || a - b);
    let x = LABEL_WIDTH;
    this.left = this.order.map((expert, column) => {
      if (column && !this.mixed && holders[this.order[column - 1]][0] !== holders[expert][0]) x += GAP;
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
    if (this.strips) legend(context, this.rows, this.shards, LABEL_WIDTH, this.width);
    else this.names(context);
    context.fillStyle = colour("muted");
    context.textAlign = "center";
    const every = Math.ceil((DIGIT * String(this.order.length - 1).length + 2) / this.cell.width);
    this.order.forEach((expert, column) => {
      if (column % every === 0) context.fillText(String(expert), this.left[column] + this.cell.width / 2, 25);
    });
  }

  names(context) {
    const shards = this.order.map((expert) => this.data.holders[expert][0]);
    shards.forEach((shard, column) => {
      if (shards[column - 1] !== shard) this.head(context, shard, this.left[column], shards.lastIndexOf(shard));
    });
  }

  /** A shard's name above its columns, as long as there is room for it. */
  head(context, shard, x, last) {
    const state = this.shards.get(shard)?.main.state ?? "unknown";
    const mark = { ready: "", suspect: " \u25d0" }[state] ?? " \u2715";
    const words = [...(mark ? [`shard ${shard}${mark} ${state}`] : []), `shard ${shard}${mark}`, `${shard}${mark}`];
    const room = this.left[last] + this.cell.width + GAP / 2 - x;
    context.fillStyle = colour(state === "suspect" ? "warn" : mark ? "bad" : "text");
    context.textAlign = "left";
    context.fillText(words.find((text) => context.measureText(text).width <= room) ?? words.at(-1), x, 8);
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
      const shards = this.rows[index][expert];
      const lost = shards.every((shard) => !serves(this.shards.get(shard)?.main));
      const text = this.paint(context, this.left[column], y, tokens[expert] / most, lost);
      if (this.strips) strip(context, this.left[column], y + this.cell.height - 2, this.cell.width - 2, shards);
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
    const { layers, tokens } = this.data;
    const [expert, holders] = [this.order[column], holdersOf(this.data, layers[row])];
    const mean = meanOf(tokens[row]);
    const load = mean ? ` (${(tokens[row][expert] / mean).toFixed(2)} \u00d7 the layer's mean)` : "";
    const places = holders[expert].map((shard) => `shard ${shard}, ${this.shards.get(shard)?.main.state ?? "unknown"}`);
    const [found, copies] = [counted(tokens[row][expert], "token"), counted(holders[expert].length, "replica")];
    return `Layer ${layers[row]}, expert ${expert}: ${found}${load}; ${copies} on ${places.join("; ")}`;
  }

  /** What the loaded experts weigh beside what one token uses, which a lost shard does not change. */
  memory(snapshot) {
    const ready = snapshot.shards.filter(serves);
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
