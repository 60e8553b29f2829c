"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
data.rows = data.values.map((cells) => Object.fromEntries(cells.map((cell, i) => [data.columns[i], cell])));
for (const [row, name, sign] of data.infinite) data.rows[row][name] = sign * Infinity;
const $ = (selector, inside = document) => inside.querySelector(selector);
const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const root = document.documentElement;

/** An element with properties and children; text is always set as text, never as markup. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const shown = (value) =>
  value === null || value === undefined ? "" : typeof value === "number" ? String(+value.toPrecision(4)) : String(value);

/** One select a name, with the values that rows have; `changed` is called with the rows that fit. Returns the first call. */
function filters(box, names, rows, chosen, changed) {
  const selects = names.map((name) => {
    const values = [...new Set(rows.map((row) => row[name]))];
    const select = element("select", { name });
    select.append(element("option", { value: "", textContent: "all" }));
    values.forEach((value, i) => select.append(element("option", { value: String(i), textContent: shown(value) })));
    const first = values.indexOf(chosen[name]);
    if (first >= 0) select.value = String(first);
    select.addEventListener("change", update);
    box.append(element("label", { textContent: data.labels[name] }, select));
    return { name, values, select };
  });
  function update() {
    changed(rows.filter((row) => selects.every((s) => s.select.value === "" || row[s.name] === s.values[+s.select.value])));
  }
  return update;
}

// ---- theme -----------------------------------------------------------------------------------------------------
{
  const button = $("#theme");
  const states = ["auto", "light", "dark"];
  let stored = null;
  try { stored = localStorage.getItem("svdkit-theme"); } catch { /* a file that may not store: the choice lasts as long as the page */ }
  function set(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.dataset.state = theme;
    try { localStorage.setItem("svdkit-theme", theme); } catch { /* as above */ }
  }
  set(states.includes(stored) ? stored : "auto");
  button.addEventListener("click", () => set(states[(states.indexOf(button.dataset.state) + 1) % states.length]));
}

// ---- curves ----------------------------------------------------------------------------------------------------
{
  const measure = $("#measure"), cost = $("#cost");
  const update = () => $$(".plot").forEach((plot) => {
    plot.hidden = plot.dataset.measure !== measure.value || plot.dataset.cost !== cost.value;
  });
  [measure, cost].forEach((select) => select.addEventListener("change", update));
  update();
  for (const button of $$(".legend button")) {
    const lines = $$(`.series[data-series="${button.dataset.of}"]`);
    const loud = (on) => () => {
      $("#curves").classList.toggle("quiet", on && button.ariaPressed === "true");
      lines.forEach((line) => line.classList.toggle("loud", on));
    };
    button.addEventListener("click", () => {
      button.ariaPressed = String(button.ariaPressed !== "true");
      lines.forEach((line) => line.classList.toggle("off", button.ariaPressed !== "true"));
      loud(false)();
    });
    for (const [event, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]])
      button.addEventListener(event, loud(on));
  }
  const budget = $("#rank-budget");
  const pick = () => $$(".rank").forEach((rank) => { rank.hidden = rank.dataset.budget !== budget.value; });
  if (budget) { budget.addEventListener("change", pick); pick(); }
}

// ---- videos ----------------------------------------------------------------------------------------------------
const MOST_TILES = 96;
if (data.wall.tiles.length) {
  const { width, height, frames, sheets } = data.wall;
  const box = $("#wall"), scrub = $("#scrub"), play = $("#play"), view = $("#view"), gain = $("#gain");
  const rowOf = new Map(data.rows.map((row) => [row.key, row]));
  const pictures = new Map();
  const clock = { at: 0, playing: false, last: null };
  let tiles = [];

  function picture(number) {
    if (!pictures.has(number)) {
      const made = new Image();
      made.src = `data:image/webp;base64,${sheets[number]}`;
      made.decode().then(draw);
      pictures.set(number, made);
    }
    return pictures.get(number);
  }

  /** Draws one and the same frame of every video that is shown. */
  function draw() {
    const frame = Math.floor(clock.at) % frames;
    const difference = view.value === "difference";
    for (const { canvas, sheet, reference } of tiles) {
      if (!pictures.get(sheet).complete || !pictures.get(reference).complete) continue;
      const to = canvas.getContext("2d");
      const blit = (number) => to.drawImage(pictures.get(number), frame * width, 0, width, height, 0, 0, width, height);
      to.globalCompositeOperation = "copy";
      blit(sheet);
      if (difference && sheet !== reference) {
        to.globalCompositeOperation = "difference";
        blit(reference);
        to.globalCompositeOperation = "lighter";
        for (let times = 1; times < +gain.value; times *= 2) to.drawImage(canvas, 0, 0);
      }
      canvas.dataset.frame = String(frame);
    }
    scrub.value = String(frame);
    scrub.ariaValueText = `frame ${frame + 1} of ${frames}`;
    $("#frame").textContent = `${frame + 1} / ${frames}`;
  }

  function tick(now) {
    if (!clock.playing) return;
    if (clock.last !== null) {
      const before = Math.floor(clock.at);
      clock.at = (clock.at + ((now - clock.last) / 1000) * data.wall.fps * +$("#speed").value) % frames;
      if (Math.floor(clock.at) !== before) draw();
    }
    clock.last = now;
    requestAnimationFrame(tick);
  }

  function run(playing) {
    if (playing === clock.playing) return;
    Object.assign(clock, { playing, last: null });
    play.textContent = playing ? "Pause" : "Play";
    if (playing) requestAnimationFrame(tick);
  }

  function go(frame) {
    run(false);
    clock.at = (frame + frames) % frames;
    draw();
  }

  function tile(row, title, facts, isReference) {
    const canvas = element("canvas", { width, height, role: "img", ariaLabel: `Video: ${title}, ${facts}` });
    picture(row.sheet);
    picture(row.reference);
    tiles.push({ canvas, sheet: row.sheet, reference: row.reference });
    box.append(element("figure", { className: isReference ? "reference" : "" }, canvas,
      element("figcaption", {}, element("b", { textContent: title }), facts)));
  }

  function show(rows) {
    tiles = [];
    box.replaceChildren();
    const references = new Map(rows.map((row) => [row.reference, row]));
    const varies = (name) => new Set(rows.map((row) => row[name])).size > 1;
    const told = ["schedule", "budget", "image", "seed", "guidance"].filter(varies);
    const facts = (row, names) => names.map((name) => (name === "budget" ? `${row[name]} evaluations` : `${name === "seed" ? "seed " : ""}${row[name]}`));
    for (const [sheet, row] of references)
      tile({ sheet, reference: sheet }, "reference", facts(row, ["image", "seed"]).join(" · "), true);
    for (const row of rows.slice(0, MOST_TILES)) {
      const measured = `${data.labels[data.primary]} ${shown(rowOf.get(row.key)[data.primary])}`;
      tile(row, row.scheduler, [...facts(row, told), measured].join(" · "), false);
    }
    $("#shown").textContent = rows.length > MOST_TILES
      ? `The first ${MOST_TILES} of ${rows.length} videos: narrow the choice to see the rest.`
      : `${rows.length} ${rows.length === 1 ? "video" : "videos"} beside the reference.`;
    draw();
  }

  scrub.max = String(frames - 1);
  play.addEventListener("click", () => run(!clock.playing));
  scrub.addEventListener("input", () => go(+scrub.value));
  $("#back").addEventListener("click", () => go(Math.floor(clock.at) - 1));
  $("#forward").addEventListener("click", () => go(Math.floor(clock.at) + 1));
  [view, gain].forEach((select) => select.addEventListener("change", () => { gain.disabled = view.value !== "difference"; draw(); }));
  gain.disabled = true;
  $("#videos").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
    const onButton = event.target.matches("button");
    const now = Math.floor(clock.at);
    const action = {
      ArrowLeft: () => go(now - 1), ArrowRight: () => go(now + 1), Home: () => go(0), End: () => go(frames - 1),
      k: () => run(!clock.playing), " ": onButton ? null : () => run(!clock.playing),
      d: () => { view.value = view.value === "difference" ? "video" : "difference"; view.dispatchEvent(new Event("change")); },
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  filters($("#wall-filters"), data.filters, data.wall.tiles, data.wall.first, show)();
}

// ---- table -----------------------------------------------------------------------------------------------------
{
  const PAGE = 25;
  const search = $("#search"), body = $("#cells tbody");
  const text = (name) => data.rows.some((row) => typeof row[name] === "string");
  const searched = data.columns.filter(text);
  let fitting = data.rows, rows = [], page = 0, sort = { name: null, down: false };

  const order = (a, b) => (a === null) - (b === null) || (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows = fitting.filter((row) => {
      const all = searched.map((name) => row[name] ?? "").join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    });
    if (sort.name) rows = rows.toSorted((a, b) => order(a[sort.name], b[sort.name]) * (sort.down && a[sort.name] !== null && b[sort.name] !== null ? -1 : 1));
    page = Math.min(page, Math.max(0, Math.ceil(rows.length / PAGE) - 1));
    const now = rows.slice(page * PAGE, (page + 1) * PAGE);
    body.replaceChildren(...now.map((row) => element("tr", {}, ...data.shown.map((name) =>
      element("td", { className: text(name) ? "text" : "", textContent: shown(row[name]), title: shown(row[name]) })))));
    $("#count").textContent = rows.length
      ? `${page * PAGE + 1}–${page * PAGE + now.length} of ${rows.length} cells (${data.rows.length} in all)` : "No cell fits.";
    $("#before").disabled = page === 0;
    $("#after").disabled = (page + 1) * PAGE >= rows.length;
  }

  $("#cells thead tr").append(...data.shown.map((name) => {
    const button = element("button", { type: "button", textContent: data.labels[name] });
    const head = element("th", { scope: "col", className: text(name) ? "text" : "", ariaSort: "none" }, button);
    button.addEventListener("click", () => {
      sort = { name, down: sort.name === name && !sort.down };
      $$("#cells th").forEach((other) => { other.ariaSort = "none"; });
      head.ariaSort = sort.down ? "descending" : "ascending";
      update();
    });
    return head;
  }));

  function csv(some) {
    const quoted = (value) => {
      const plain = value === null ? "" : String(value);
      return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
    };
    const value = (row, name) => (name === "sigmas" ? data.sigmas[row.sigmas] : row[name]);
    return [data.columns, ...some.map((row) => data.columns.map((name) => value(row, name)))].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  }
  const parquet = () => Uint8Array.from(atob(data.parquet), (byte) => byte.charCodeAt(0));
  function download(content, type, name) {
    const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  $("#csv").addEventListener("click", () => download(csv(data.rows), "text/csv", "study.csv"));
  $("#csv-shown").addEventListener("click", () => download(csv(rows), "text/csv", "study-selection.csv"));
  $("#parquet").addEventListener("click", () => download(parquet(), "application/vnd.apache.parquet", "study.parquet"));
  $("#before").addEventListener("click", () => { page -= 1; update(); });
  $("#after").addEventListener("click", () => { page += 1; update(); });
  search.addEventListener("input", () => { page = 0; update(); });
  filters($("#table-filters"), [...data.filters, "status"], data.rows, {}, (some) => {
    fitting = some;
    page = 0;
    update();
  })();
  window.report = { csv: () => csv(rows), parquet };
}
