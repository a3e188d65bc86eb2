// Numbers to short text.

const LOCALE = "en";

export const whole = (value) => Math.round(value).toLocaleString(LOCALE);

/** What stands for a figure that is not known. */
export const NONE = "\u2013";

export const known = (value, show) => (value === null || value === undefined ? NONE : show(value));

export const sum = (values) => values.reduce((total, value) => total + value, 0);

/** How many of what: "1 token", "2 tokens". */
export const counted = (value, one) => `${whole(value)} ${one}${value === 1 ? "" : "s"}`;

export const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}\u2009%`;

/** Rates: whole from 100 on, one digit below. */
export const rate = (value) => (value >= 100 ? whole(value) : value.toFixed(value > 0 ? 1 : 0));

export function seconds(value) {
  if (value >= 1) return `${value.toFixed(2)}\u2009s`;
  if (value >= 1e-3) return `${(value * 1e3).toFixed(value >= 1e-2 ? 1 : 2)}\u2009ms`;
  return `${(value * 1e6).toFixed(0)}\u2009\u00b5s`;
}

export function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${unit === "B" ? value : value.toFixed(1)}\u2009${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)}\u2009TiB`;
}

export function count(value) {
  for (const [factor, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (value >= factor) return `${(value / factor).toFixed(1)}${unit}`;
  }
  return String(value);
}

/** A token's text with what cannot be seen made visible. */
export const visible = (text) =>
  text === "" ? "\u2205" : text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5").replaceAll(" ", "\u00b7");
