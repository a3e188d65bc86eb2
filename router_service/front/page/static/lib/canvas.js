// What is drawn rather than made of elements: sizes and colours.

/** A colour of the style sheet, for what is drawn on a canvas. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Size a canvas to `width` and `height` CSS pixels and return its context, scaled to the screen. */
export function canvasOf(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

/** `share` of a colour of the style sheet over another, and black or white for text on it: whichever reads better. */
export function blend(under, over, share) {
  const [low, high] = [under, over].map((name) => channels(colour(name)));
  const mixed = low.map((value, index) => Math.round(value + (high[index] - value) * share));
  return { fill: `rgb(${mixed.join(" ")})`, text: luminance(mixed) > EVEN_CONTRAST ? "#000000" : "#ffffff" };
}

// Black and white read equally well on this luminance, at 4.6 to 1.
const EVEN_CONTRAST = 0.179;

// The style sheet writes colours as #rrggbb.
const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** Relative luminance as WCAG defines it. */
function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => (value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
