// Which shards hold an expert, in colours: where layers differ, or hot experts have more copies than others.

import { colour } from "../lib/canvas.js";
import { serves } from "./shards.js";

const [HUES, HEIGHT, SQUARE, GAP] = [7, 3, 9, 10];

/** A shard's colour; past the seventh they repeat, and the detail below the grid tells which it is. */
const hue = (shard) => colour(`stage-${1 + (shard % HUES)}`);

/** Each shard's colour and number, as many as there is room for up to `end`; one that does not serve is crossed out. */
export function legend(context, rows, shards, start, end) {
  context.textAlign = "left";
  let x = start;
  for (const shard of [...new Set(rows.flat(2))].sort((a, b) => a - b)) {
    const lost = !serves(shards.get(shard)?.main);
    const text = lost ? `${shard} \u2715` : String(shard);
    const next = x + SQUARE + 4 + context.measureText(text).width + GAP;
    if (next - GAP > end) return;
    context.fillStyle = hue(shard);
    context.fillRect(x, 4, SQUARE, SQUARE);
    context.fillStyle = colour(lost ? "bad" : "text");
    context.fillText(text, x + SQUARE + 4, 9);
    x = next;
  }
}

/** Along a cell's lower edge, `bottom`, a piece for each copy in its shard's colour. */
export function strip(context, x, bottom, width, shards) {
  const piece = width / shards.length;
  shards.forEach((shard, number) => {
    context.fillStyle = hue(shard);
    context.fillRect(x + number * piece, bottom - HEIGHT, piece, HEIGHT);
  });
}
