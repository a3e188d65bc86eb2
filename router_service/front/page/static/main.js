// Puts the page together: one stream of snapshots, and each panel draws its part of them.

import { Balance } from "./panels/balance.js";
import { Domains } from "./panels/domains.js";
import { $, say } from "./lib/dom.js";
import { Experts } from "./panels/experts.js";
import { Failure } from "./panels/failure.js";
import { count } from "./lib/format.js";
import { Generation } from "./panels/generate.js";
import { LiveSource } from "./lib/live.js";
import { Shards } from "./panels/shards.js";
import { Steps } from "./panels/steps.js";
import { Summary } from "./panels/summary.js";

const WORDS = {
  connecting: ["\u25cc connecting", ""],
  live: ["\u25cf live", "good"],
  draining: ["\u25d0 draining", "warn"],
  reconnecting: ["\u25cc reconnecting", "bad"],
  refused: ["\u2715 refused", "bad"],
  paused: ["\u2016 paused", ""],
  locked: ["\u2715 no token", "warn"],
  partial: ["\u25d0 generation only", "warn"],
};
const BANNERS = {
  draining: "The server is draining: streams in flight end, new ones are refused.",
  locked: "The server asks for a token.",
  partial: "This token may generate. What the cluster does, below, is shown to tokens with the role admin.",
  reconnecting: "The connection to the server is lost; what is shown is the last that was known. Reconnecting \u2026",
};

const panels = [new Summary(), new Shards(), new Experts(), new Steps(), new Failure(), new Balance()];
const generation = new Generation();
new Domains();

function showModel(model) {
  say($("model-name"), model.name);
  document.title = `${model.name} \u00b7 ExpertMesh`;
  const layers = `${model.moe_layers} MoE layers \u00d7 ${model.experts} experts, top ${model.experts_per_token}`;
  const size = `${count(model.total_parameters)} parameters, ${count(model.active_parameters)} active`;
  say($("model-facts"), [model.family, layers, size, model.dtype].join("  \u00b7  "));
  generation.model(model);
  for (const panel of panels) panel.model?.(model);
}

function showState(word, detail = "") {
  const [text, kind] = WORDS[word];
  const pill = $("connection");
  say(pill, text);
  pill.className = `pill ${kind}`;
  pill.dataset.state = word;
  const banner = $("banner");
  say(banner, word === "refused" ? `The server refuses: ${detail}` : BANNERS[word] ?? "");
  banner.hidden = banner.textContent === "";
  document.body.classList.toggle("stale", word === "reconnecting" || word === "refused");
}

new LiveSource({
  model: showModel,
  state: showState,
  snapshot(snapshot) {
    showState(snapshot.draining ? "draining" : "live");
    for (const panel of panels) panel.snapshot(snapshot);
  },
});
