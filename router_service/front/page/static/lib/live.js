// The stream of snapshots: connects, notices silence, reconnects by itself, pauses while the page is hidden, and waits
// for another token if this one is refused.

import { Refused, events, request } from "./sse.js";

const SILENCE_MS = 5000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
const LOCKED = { 401: "locked", 403: "partial" };

/** Calls `on.model`, `on.snapshot` with what comes, and `on.state(word, detail)` when the connection changes. */
export class LiveSource {
  constructor(on) {
    this.on = on;
    this.pause = FIRST_PAUSE_MS;
    this.controller = null;
    document.addEventListener("visibilitychange", () => this.follow());
    document.addEventListener("tokenchange", () => (this.controller ? this.controller.abort() : this.follow()));
    // A page that is left for another one must not come back from the browser's memory with a dead stream.
    window.addEventListener("pageshow", (event) => event.persisted && this.follow());
    this.follow();
  }

  /** A hidden page gives its connection back: a browser has six for each server. */
  follow() {
    if (document.hidden) {
      this.controller?.abort();
      this.on.state("paused", "");
    } else if (this.controller === null) this.run();
  }

  async run() {
    this.on.state("connecting", "");
    while (!document.hidden) {
      this.controller = new AbortController();
      const problem = await this.connect(this.controller).catch((error) => error);
      this.controller = null;
      if (document.hidden) return;
      if (problem instanceof Refused && LOCKED[problem.status]) return this.locked(problem.status);
      const detail = problem instanceof Refused ? problem.message : "";
      this.on.state(problem instanceof Refused ? "refused" : "reconnecting", detail);
      await new Promise((resolve) => setTimeout(resolve, this.pause));
      this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
      if (this.controller !== null) return;
    }
  }

  /** Stay until the token is another one. Who may generate still learns what the model is. */
  async locked(status) {
    this.on.state(LOCKED[status], "");
    if (status !== 403) return;
    const answer = await request("api/model").catch(() => null);
    if (answer !== null) this.on.model(await answer.json());
  }

  async connect(controller) {
    let timer = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const response = await request("live", { signal: controller.signal });
      for await (const [kind, data] of events(response)) {
        clearTimeout(timer);
        timer = setTimeout(() => controller.abort(), SILENCE_MS);
        this.pause = FIRST_PAUSE_MS;
        if (kind === "model") this.on.model(data);
        else if (kind === "snapshot") this.on.snapshot(data);
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
