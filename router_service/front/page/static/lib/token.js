// The token that the server may ask for: kept in this tab only, sent with every request.

import { $, say } from "./dom.js";

const KEY = "token";
const PRINTABLE = /^[\x21-\x7e]+$/;

let current = "";
try {
  current = sessionStorage.getItem(KEY) ?? "";
} catch {
  // Storage may be forbidden; the token then lasts as long as the page.
}

/** The header that carries the token, or none. */
export const authorization = () => (current ? { Authorization: `Bearer ${current}` } : {});

/** Open the dialog, with what the server says of the token that it has; "tokenchange" follows on the document when one was given. */
export function ask(problem = "") {
  const dialog = $("token-dialog");
  say($("token-problem"), current ? problem : "");
  $("token").hidden = false;
  if (!dialog.open) dialog.showModal();
}

function use(token) {
  if (!PRINTABLE.test(token)) {
    say($("token-problem"), "A token is printable ASCII without spaces.");
    return;
  }
  current = token;
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // As above.
  }
  $("token-input").value = "";
  $("token-dialog").close();
  document.dispatchEvent(new Event("tokenchange"));
}

$("token").hidden = current === "";
$("token").addEventListener("click", () => ask());
$("token-cancel").addEventListener("click", () => $("token-dialog").close());
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  use($("token-input").value.trim());
});
