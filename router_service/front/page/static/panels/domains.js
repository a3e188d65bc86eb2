// Texts of several kinds and the experts that each prefers, beside each other.

import { $, h, say } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { SAMPLES } from "./samples.js";
import { request } from "../lib/sse.js";

const MAX_DOMAINS = 8;
const NAMED = 3;

export class Domains {
  constructor() {
    this.number = 0;
    for (const [name, text] of SAMPLES) this.add(name, text);
    $("add-domain").addEventListener("click", () => this.add(`text ${this.number + 1}`, "").querySelector("textarea").focus());
    $("domains-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
  }

  add(name, text) {
    const number = ++this.number;
    const area = h("textarea", { rows: "5", spellcheck: "false", "aria-label": `Text ${number}` });
    area.value = text;
    const remove = h("button", { type: "button", class: "quiet", "aria-label": `Remove text ${number}` }, "Remove");
    const label = h("input", { type: "text", maxlength: "40", value: name, "aria-label": `Name of text ${number}` });
    const box = h("fieldset", { class: "domain" }, h("div", {}, label, remove), area);
    remove.addEventListener("click", () => {
      box.remove();
      this.count();
    });
    $("domain-texts").append(box);
    this.count();
    return box;
  }

  count() {
    $("add-domain").disabled = $("domain-texts").childElementCount >= MAX_DOMAINS;
    $("compare").disabled = $("domain-texts").childElementCount < 2;
  }

  async run() {
    const boxes = [...$("domain-texts").children];
    const domains = boxes.map((box) => ({ name: box.querySelector("input").value, text: box.querySelector("textarea").value }));
    $("compare").disabled = true;
    say($("domains-status"), "Running the texts \u2026");
    try {
      const response = await request("api/domains", { body: { domains } });
      this.show(await response.json());
    } catch (error) {
      say($("domains-status"), `Failed: ${error.message}`);
    }
    this.count();
  }

  show(result) {
    const tokens = result.domains.map(({ name, tokens }) => `${name} ${tokens}`).join(", ");
    const found = result.layers.filter((layer) => layer.beyond_chance).length;
    const verdict = found
      ? `Experts specialize by domain in ${found} of ${result.layers.length} layers.`
      : "No specialization beyond chance: these experts do not tell these texts apart.";
    say($("domains-status"), `${verdict} Tokens: ${tokens}.`);
    const how = `Specialization is the mutual information between a token's domain and its experts, over the smaller of both `
      + `entropies: 0 if all domains use the experts alike, 1 if none share one. Chance is its mean over `
      + `${result.permutations} permutations of the domains of blocks of ${result.block_tokens} tokens; p counts how often `
      + `the best layer of a permutation exceeds its chance by as much.`;
    const layers = result.layers.map((layer) => layerCard(layer, result.domains.map(({ name }) => name)));
    $("domains").replaceChildren(h("p", { class: "note" }, how), h("div", { class: "domain-layers" }, ...layers));
  }
}

function layerCard(layer, names) {
  const word = layer.beyond_chance ? "beyond chance" : "not beyond chance";
  const pill = h("span", { class: `pill ${layer.beyond_chance ? "good" : ""}` }, word);
  const figures = `specialization ${layer.nmi.toFixed(3)}, chance ${layer.chance.toFixed(3)}, beyond it ${layer.excess.toFixed(3)}, p ${layer.p.toFixed(3)}`;
  const most = Math.max(...layer.shares.flat(), 1e-9);
  const table = h("table", { class: "shares" }, ...layer.shares.map((shares, index) => domainRow(names[index], shares, layer.shares, most)));
  return h("article", { class: "domain-layer", "data-layer": layer.layer, "data-beyond": String(layer.beyond_chance) },
    h("h4", {}, `Layer ${layer.layer} `, pill), h("p", { class: "note" }, figures),
    h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": `Layer ${layer.layer}: share of each expert by domain` }, table));
}

function domainRow(name, shares, all, most) {
  const cells = shares.map((share, expert) => {
    const cell = h("td", { title: `${name}, expert ${expert}: ${percent(share)}` });
    const fill = h("span", {});
    fill.style.opacity = String(share / most);
    cell.append(fill);
    return cell;
  });
  return h("tr", {}, h("th", { scope: "row", title: name }, name), ...cells, h("td", { class: "prefers" }, preferred(shares, all)));
}

/** The experts that a domain uses most beyond what all domains do on average. */
function preferred(shares, all) {
  const ratios = shares.map((share, expert) => {
    const mean = all.reduce((total, other) => total + other[expert], 0) / all.length;
    return [expert, mean ? share / mean : 0, share - mean];
  });
  const best = ratios.filter(([, , more]) => more > 0).sort((a, b) => b[2] - a[2]).slice(0, NAMED);
  return best.map(([expert, ratio]) => `E${expert} \u00d7${ratio.toFixed(1)}`).join(" \u00b7 ");
}
