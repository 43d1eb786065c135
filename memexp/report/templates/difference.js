
"use strict";
// Draws the text of one document at a time, coloured by gain, and shows what the token in focus gained and read.
// Text of a document is inserted only as `textContent`, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const LEVELS = [0.5, 1, 2, 4];     // from so many nats on, a colour is one step darker
const CHUNK = 200;                     // the browser lays out at least so many tokens together
const BEFORE = 24, BEHIND = 12;        // tokens to show before and after a token that was read from memory
const TICKS = [3, 0.3, 0, -0.3, -3];
const ARRAYS = { "|u1": Uint8Array, "<u2": Uint16Array, "<u4": Uint32Array };

let columns, gains, matches = [];
let shown = -1, spans = [];            // the document that is drawn, and the elements of its tokens
let at = -1, told = -1, match = -1;    // the token in focus, the token in the side panel, and the index of the current match
let pointer = "";

async function unpack() {
  const packed = Uint8Array.from(atob(data.columns), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  let offset = 0;
  columns = {};
  for (const [name, type, length] of data.layout) {
    columns[name] = new ARRAYS[type](bytes, offset, length);
    offset += columns[name].byteLength;
  }
  gains = Float32Array.from(columns.a, (_, i) => thousandths(i) / 1000);
}

const thousandths = (i) => columns.a[i] - columns.b[i];
const start = (index) => data.documents[index].start;
const end = (index) => start(index) + data.documents[index].tokens;
const documentOf = (i) => data.documents.findIndex((_, index) => i < end(index));
const textOf = (i) => data.strings[columns.text[i]];
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const count = (value) => value.toLocaleString("en");

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// ---------------------------------------------------------------------------------------------------- text

function levelOf(gain) {
  const size = Math.abs(gain);
  let level = 0;
  while (level < LEVELS.length && size >= LEVELS[level]) level++;
  return level && (gain > 0 ? "g" : "l") + level;
}

function show(index) {
  if (index === shown) return;
  shown = index;
  $("document").value = index;
  const first = start(index), last = end(index), pieces = [];
  spans = new Array(last - first);
  let chunk = make("div"), lines = 0, width = 0, size = 0;
  const close = () => {
    lines += width / 90;
    chunk.style.containIntrinsicBlockSize = `auto ${Math.ceil(lines) * 1.75}em`;
    pieces.push(chunk);
    chunk = make("div");
    lines = width = size = 0;
  };
  for (let i = first; i < last; i++) {
    const text = textOf(i), span = make("span", text), level = levelOf(gains[i]), ends = text.includes("\n");
    span.at = i;
    span.className = (ends ? "end " : "") + (level || "");
    spans[i - first] = span;
    chunk.append(span);
    size++;
    width += text.length;
    if (ends) { lines += Math.ceil(width / 90); width = 0; }
    if (size >= 8 * CHUNK || (ends && size >= CHUNK)) close();
  }
  close();
  $("text").replaceChildren(...pieces);
  settle(at >= first && at < last ? at : first);
  $("place").max = last - first;
  mark();
  draw();
}

// ------------------------------------------------------------------------------------------------- filters

/** A flag for each token that the search matches; null without a search. */
function hits(query) {
  if (!query) return null;
  const hit = new Uint8Array(gains.length), wanted = query.toLowerCase();
  data.documents.forEach((_, index) => {
    const places = [];                 // where each token begins
    let text = "";
    for (let i = start(index); i < end(index); i++) { places.push(text.length); text += textOf(i).toLowerCase(); }
    let token = 0;
    for (let from = text.indexOf(wanted); from >= 0; from = text.indexOf(wanted, from + 1)) {
      while (token + 1 < places.length && places[token + 1] <= from) token++;
      for (let i = token; i < places.length && places[i] < from + wanted.length; i++) hit[start(index) + i] = 1;
    }
  });
  return hit;
}

function filter() {
  const least = Math.round(1000 * Number($("least").value)) || 0, side = $("side").value, kind = $("kind").value;
  const found = hits($("search").value);
  matches = [];
  for (let i = 0; i < gains.length; i++) {
    const gain = gains[i];
    if (Math.abs(thousandths(i)) >= least && (side === "both" || (side === "gain" ? gain > 0 : gain < 0))
      && (kind === "" || columns.kind[i] === Number(kind)) && (!found || found[i])) matches.push(i);
  }
  const order = $("order").value;
  if (order !== "read") matches.sort((i, j) => (order === "gain" ? gains[j] - gains[i] : gains[i] - gains[j]) || i - j);
  match = -1;
  say();
  mark();
  draw();
}

/** Remove the colour from the tokens that the filters leave out. */
function mark() {
  const off = new Uint8Array(spans.length).fill(1), first = start(shown);
  for (const i of matches) if (i >= first && i < first + spans.length) off[i - first] = 0;
  spans.forEach((span, i) => span.classList.toggle("off", off[i] === 1));
}

function say() {
  $("count").textContent = matches.length ? `${match < 0 ? "–" : count(match + 1)} of ${count(matches.length)}` : "no matching token";
}

function jump(step) {
  if (!matches.length) return;
  match = match < 0 ? (step > 0 ? 0 : matches.length - 1) : (match + step + matches.length) % matches.length;
  say();
  go(matches[match]);
}

// --------------------------------------------------------------------------------------------------- focus

/** Make a token of this document the target of the tab key. */
function settle(i) {
  const before = $("text").querySelector("[tabindex]"), span = spans[i - start(shown)];
  before?.removeAttribute("tabindex");
  before?.classList.remove("here");
  span.tabIndex = 0;
  span.classList.toggle("here", i === at);
  return span;
}

/** Move the focus to a token of any document. */
function go(i) {
  at = i;
  show(documentOf(i));
  const span = settle(i);
  span.focus({ preventScroll: true });
  span.scrollIntoView({ block: "center" });
  span.scrollIntoView({ block: "center" });  // the first call lays out text above, which may move the token
  $("place").value = i - start(shown) + 1;
  history.replaceState(null, "", `#${i + 1}`);  // so that the address points to this token
  tell(i);
  draw();
}

/** Leave the token in focus, because it is of another document. */
function leave() {
  at = told = -1;
  $("place").value = 1;
  $("detail").replaceChildren(make("p", "Hover, tap or focus a token.", "note"));
}

/** What a token read from memory: the index of each token that was read, its distance and its weight. */
function placesOf(i) {
  const places = [];
  for (let k = 0; k < data.places; k++) {
    const distance = columns.distance[k * gains.length + i];
    if (distance) places.push({ read: i - 1 - distance, distance, weight: columns.weight[k * gains.length + i] / 1000 });
  }
  return places;
}

function tell(i) {
  told = i;
  const index = documentOf(i), first = start(index), gain = gains[i];
  const facts = make("dl");
  for (const [name, value, className] of [
    ["gain", `${signed(gain)} nats`, gain > 0 ? "up" : gain < 0 ? "down" : ""],
    ["loss in A", (columns.a[i] / 1000).toFixed(3)],
    ["loss in B", (columns.b[i] / 1000).toFixed(3)],
    ["kind", data.kinds[columns.kind[i]]],
    ["position", count(i - first + 1)],
  ]) facts.append(make("dt", name), make("dd", value, className));
  const text = textOf(i).replace(/\n/g, "↵").replace(/\t/g, "⇥");
  const parts = [make("h2", text === "" ? "part of a character" : `«${text}»`, "mono"), facts];
  const places = placesOf(i);
  if (places.length) parts.push(make("h3", "Read from B's memory"));
  for (const { read, distance, weight } of places) {
    const button = make("button", undefined, "around mono");
    button.type = "button";
    const slice = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, k) => textOf(from + k)).join("");
    button.append(slice(Math.max(first, read - BEFORE), read), make("b", read < first ? "(first token)" : textOf(read)),
      make("u", textOf(read + 1)), slice(read + 2, Math.min(read + 2 + BEHIND, i)));
    button.addEventListener("click", () => go(Math.max(first, read)));
    parts.push(make("p", `${count(distance)} tokens before, ${(100 * weight).toFixed(1)} % of attention`), button);
  }
  if (data.places && !places.length) parts.push(make("p", "This token read nothing from the memory.", "note"));
  $("detail").replaceChildren(...parts);
  for (const span of document.querySelectorAll("#text .read")) span.classList.remove("read");
  if (index === shown) for (const { read } of places) spans[read - first]?.classList.add("read");
}

// ---------------------------------------------------------------------------------------------------- plot

const height = (gain) => Math.asinh(gain / 0.05) / Math.asinh(10 / 0.05);  // logarithmic beyond a few hundredths of a nat

function draw() {
  const canvas = $("plot"), box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  canvas.width = box.width * scale;
  canvas.height = box.height * scale;
  const pen = canvas.getContext("2d"), first = start(shown), total = spans.length;
  pen.scale(scale, scale);
  const x = (i) => ((i - first + 0.5) / total) * box.width, y = (gain) => (box.height / 2) * (1 - 0.95 * height(gain));
  pen.font = "10px system-ui, sans-serif";
  pen.strokeStyle = colour("--rule");
  pen.lineWidth = 1;
  for (const tick of TICKS) {
    pen.beginPath();
    pen.moveTo(0, y(tick));
    pen.lineTo(box.width, y(tick));
    pen.stroke();
  }
  const up = colour("--gain"), down = colour("--loss");
  pen.globalAlpha = 0.55;
  for (const i of matches) {
    if (i < first || i >= first + total) continue;
    pen.fillStyle = gains[i] > 0 ? up : down;
    pen.fillRect(x(i) - 0.8, y(gains[i]) - 0.8, 1.6, 1.6);
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = colour("--ink");
  pen.lineWidth = 1.3;
  pen.beginPath();
  const width = Math.min(data.running, total);
  let sum = 0;
  for (let k = 0; k < total; k++) {
    sum += gains[first + k] - (k >= width ? gains[first + k - width] : 0);
    if (k >= width - 1) pen.lineTo(x(first + k - width / 2), y(sum / width));
  }
  pen.stroke();
  pen.strokeStyle = colour("--paper");
  pen.fillStyle = colour("--quiet");
  pen.lineWidth = 3;
  for (const tick of TICKS) {
    const label = tick > 0 ? `+${tick}` : String(tick).replace("-", "−");
    pen.strokeText(label, 2, y(tick) + 3);
    pen.fillText(label, 2, y(tick) + 3);
  }
  if (at >= first && at < first + total) {
    pen.fillStyle = colour("--accent");
    pen.fillRect(x(at) - 0.75, 0, 1.5, box.height);
  }
}

// --------------------------------------------------------------------------------------------------- begin

function listen() {
  $("document").addEventListener("change", () => { leave(); show(Number($("document").value)); scrollTo({ top: 0 }); });
  for (const id of ["side", "kind", "order"]) $(id).addEventListener("change", filter);
  for (const id of ["least", "search"]) {
    let waiting;
    $(id).addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
    $(id).addEventListener("keydown", (event) => {
      if (event.key === "Enter") { clearTimeout(waiting); filter(); jump(1); }
    });
  }
  $("previous").addEventListener("click", () => jump(-1));
  $("next").addEventListener("click", () => jump(1));
  $("place").addEventListener("input", () => {
    const focused = document.activeElement;
    go(start(shown) + Number($("place").value) - 1);
    focused.focus({ preventScroll: true });
  });
  $("plot").addEventListener("click", (event) => {
    const box = $("plot").getBoundingClientRect();
    go(start(shown) + Math.min(spans.length - 1, Math.floor(((event.clientX - box.left) / box.width) * spans.length)));
  });
  $("text").addEventListener("mousemove", (event) => {
    const before = pointer;
    pointer = `${event.screenX} ${event.screenY}`;  // scrolling text under a mouse at rest does not count as pointing
    if (pointer !== before && event.target.at !== undefined && event.target.at !== told) tell(event.target.at);
  });
  $("text").addEventListener("mouseleave", () => { if (at >= 0) tell(at); });
  $("text").addEventListener("click", (event) => { if (event.target.at !== undefined) go(event.target.at); });
  $("text").addEventListener("focusin", (event) => { if (event.target.at !== undefined && event.target.at !== at) go(event.target.at); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "n") jump(1);
    else if (event.key === "p") jump(-1);
    else if (event.key === "/") $("search").focus();
    else if (step && at >= 0) { if (spans[at + step - start(shown)]) go(at + step); }
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => {
    draw();
    document.documentElement.style.setProperty("--tools", `${$("tools").offsetHeight}px`);
  }).observe($("tools"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

async function begin() {
  if (!("DecompressionStream" in window)) {
    $("text").textContent = "This browser cannot unpack the page; expected a browser of 2023 or later.";
    return;
  }
  await unpack();
  data.documents.forEach(({ id, tokens, gain }, index) => {
    const option = make("option", `${id} (${count(tokens)} tokens, mean ${signed(gain)})`);
    option.value = index;
    option.disabled = tokens === 0;
    $("document").append(option);
  });
  for (const kind of new Set(columns.kind)) {
    const option = make("option", data.kinds[kind]);
    option.value = kind;
    $("kind").append(option);
  }
  show(data.documents.findIndex(({ tokens }) => tokens > 0));
  filter();
  listen();
  const asked = Number(location.hash.slice(1)) - 1;
  if (asked in gains) go(asked);
  document.documentElement.dataset.drawn = "true";
}

begin();
