// Elements without markup: text goes in as text, so that nothing a model says can become an element.

export const $ = (id) => document.getElementById(id);

/** Make an element: `properties` are attributes, or listeners where they start with "on"; children are nodes or text. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text, only if it is another one: a live region would speak again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fill a table: `head` and `rows` are lists of cells, each text or a node; the first cell of a row is its header. */
export function fillTable(table, head, rows) {
  const header = h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...rest]) =>
    h("tr", {}, h("th", { scope: "row" }, first), ...rest.map((cell) => h("td", {}, cell))),
  );
  table.replaceChildren(h("thead", {}, header), h("tbody", {}, ...body));
}
