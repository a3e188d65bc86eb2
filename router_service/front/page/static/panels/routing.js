// Where one token went: in each MoE layer the gate's best scores, the experts it chose, and their shards.

import { h } from "../lib/dom.js";

const HINT = "Select a token, with the mouse or the arrow keys, to see the gate's scores, the experts that it chose and their shards.";

export class Routing {
  constructor(root) {
    this.root = root;
  }

  /** Nothing is selected; say that something can be. */
  clear() {
    this.root.replaceChildren(h("p", { class: "note", id: "tokens-hint" }, HINT));
  }

  /** `layers` is undefined while the position is not computed: a last token never is. */
  show(title, layers) {
    const head = h("h3", {}, title);
    if (!layers) {
      const text = "Not routed: a token is routed when the next one is computed, which the last token never is.";
      this.root.replaceChildren(head, h("p", { class: "note" }, text));
      return;
    }
    const legend = h("p", { class: "note" }, "Bars: the gate's highest scores, by expert. \u2713 marks the chosen experts, named with their weights and shards.");
    this.root.replaceChildren(head, legend, ...layers.map(layerRow));
  }
}

function layerRow({ layer, chosen, scores }) {
  const weights = new Map(chosen.map(([expert, weight]) => [expert, weight]));
  const most = Math.max(...scores.map(([, score]) => score), 1e-9);
  const bars = h("ol", { class: "scores", tabindex: "0", "aria-label": `Scores of layer ${layer}` },
    ...scores.map(([expert, score]) => bar(expert, score, score / most, weights.has(expert))));
  const chips = [...chosen].sort((a, b) => b[1] - a[1]).map(([expert, weight, shard]) =>
    h("li", { "data-expert": expert, "data-weight": weight, "data-shard": shard },
      h("strong", {}, `\u2713 E${expert}`), ` ${weight.toFixed(3)} \u2192 shard ${shard}`));
  return h("div", { class: "layer", "data-layer": layer },
    h("h4", {}, `Layer ${layer}`), bars, h("ul", { class: "chosen", "aria-label": `Chosen in layer ${layer}` }, ...chips));
}

function bar(expert, score, share, chosen) {
  const fill = h("span", { class: "fill" });
  fill.style.height = `${Math.max(0, share) * 100}%`;
  const name = h("b", {}, chosen ? h("span", { class: "tick" }, "\u2713") : null, String(expert));
  const title = `expert ${expert}: ${score.toFixed(4)}${chosen ? ", chosen" : ""}`;
  return h("li", { class: chosen ? "chosen" : "", title, "data-expert": expert, "data-score": score },
    h("span", { class: "track", "aria-hidden": "true" }, fill), name, h("i", {}, score.toFixed(2).replace(/^0/, "")));
}
