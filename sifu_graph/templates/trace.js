// Draws a trace: positions from left to right, the signals that reach each of them, the candidates below.
// Names come from text, so they are set as text (textContent) only and never parsed as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROW = 27, BASE = 176, LEFT = 46, TOP = 18, SIGNALS = 8;
  const state = { version: data.traces.length - 1, at: 0, pick: 0, versus: 1, mass: 20, arcs: "weight", pin: null, compare: false };
  const $ = (id) => document.getElementById(id);
  const trace = () => data.traces[state.version];
  const here = () => trace().positions[state.at];

  // ---- making elements

  const SVG = "http://www.w3.org/2000/svg";
  function make(space, tag, attributes, ...children) {
    const element = space ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === false || value === null || value === undefined) continue;
      if (name === "on") for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
      else if (name === "style") Object.assign(element.style, value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) if (child !== null) element.append(child);
    return element;
  }
  const svg = (tag, attributes, ...children) => make(true, tag, attributes, ...children);
  const html = (tag, attributes, ...children) => make(false, tag, attributes, ...children);
  const put = (id, ...children) => $(id).replaceChildren(...children.flat());

  const label = (name) => visible(data.names[name]);
  const plain = (text) => text.split(" ").map(visible).join(" ");
  const spelled = () => data.traces[0].tokens.slice(data.traces[0].first === 0 ? 1 : 0)
    .map((name) => plain(data.names[name])).join(data.between);
  const sourceName = (names) => names.map((name, k) => [k ? ">" : "", token(name)]).flat();
  const token = (name) => html("span", { class: "token" }, label(name));
  const fixed = (x, digits) => (x < 0 ? "\u2212" : "") + Math.abs(x).toFixed(digits);
  const signed = (x, digits) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(digits);
  const whole = (x) => x.toLocaleString("en-US");
  const percent = (p) => p >= 0.0995 ? (100 * p).toFixed(0) + "%" : p >= 0.001 ? (100 * p).toFixed(1) + "%" : p > 0 ? "<0.1%" : "0%";
  const shareOf = (c) => c.p * (c.private ? 1 : c.among);
  // The width of a text in units of its letters' size: a little more than fonts need.
  const ems = (part) => [...part].reduce((sum, c) => sum + (c > "\u2e80" ? 1 : /[MWmw@%\u2026]/.test(c) ? .95 : .6), 0);
  const WIDEST = 12 * 12.5;  // a longer name is cut
  const COLUMN = Math.max(74, 62 + Math.min(WIDEST, 12.5 * Math.max(...data.traces.flatMap((found) =>
    found.positions.flatMap((position) => position.candidates.slice(0, 8).map((c) => ems(label(c.name))))))));
  // A text cut to a width, and the size of its letters, between `least` and `most`.
  function fit(text, width, least, most) {
    let cut = text;
    while (ems(cut) * least > width && [...cut].length > 1) cut = [...cut].slice(0, -2).join("") + "\u2026";
    return [cut, Math.min(most, width / ems(cut)) + "px"];
  }

  // ---- what is shown of a position

  // The fewest candidates of the page that together have the probability `mass`, and always the next token.
  function candidatesShown(position) {
    const out = [];
    let held = 0;
    position.candidates.forEach((candidate, k) => {
      const contender = k < position.contenders;
      if ((contender && (held < state.mass / 100 - 1e-9 || out.length === 0)) || k === position.came) out.push(k);
      if (contender) held += shareOf(candidate);
    });
    if (position === here()) for (const k of [state.pick, state.versus]) if (k < position.candidates.length && !out.includes(k)) out.push(k);
    return out.sort((a, b) => position.candidates[b].energy - position.candidates[a].energy);
  }

  // The parts of the margin of the picked candidate over the other one.
  function split(position) {
    const a = position.account[Math.min(state.pick, position.account.length - 1)];
    const b = position.account[Math.min(state.versus, position.account.length - 1)];
    return {
      signals: a.signals.map((x, k) => x - b.signals[k]), bias: a.bias - b.bias,
      encoding: a.encoding - b.encoding, counts: a.counts - b.counts, clones: a.clones.map((x, k) => x - b.clones[k]),
      together: a.together - b.together, repetition: a.repetition - b.repetition, remainder: a.remainder - b.remainder,
    };
  }
  const marginOf = (position) => position.candidates[state.pick].energy - position.candidates[state.versus].energy;
  // The position of signal k of a position's list; null: the sum of all earlier signals.
  const signalAt = (position, k) => position.rest && k === 0 ? null : position.from + k;
  const signalName = (at) => trace().tokens[at - trace().first];

  // ---- the picture

  const x = (at) => at === null || at < trace().positions[0].position ? LEFT - 22 : LEFT + (at - trace().positions[0].position + .5) * COLUMN;

  function arcs(position, on) {
    const amounts = on && state.arcs === "account" ? split(position).signals : position.weights;
    const order = amounts.map((_, k) => k).sort((a, b) => Math.abs(amounts[b]) - Math.abs(amounts[a]));
    const all = amounts.reduce((sum, w) => sum + Math.abs(w), 0), peak = Math.max(...amounts.map(Math.abs));
    const out = [];
    let held = 0;
    for (const k of order) {
      if (amounts[k] === 0 || (held >= Math.max(state.mass, 80) / 100 * all && out.length)) break;
      held += Math.abs(amounts[k]);
      const from = x(signalAt(position, k)), to = x(position.position), gap = Math.abs(to - from);
      const height = 34 + Math.min(112, 15 * Math.sqrt(gap / 8));
      const path = gap < 1 ? `M${to - 5} ${BASE - 18} C${to - 26} ${BASE - 62} ${to + 26} ${BASE - 62} ${to + 5} ${BASE - 18}`
        : `M${from} ${BASE - 18} C${from} ${BASE - 18 - height} ${to} ${BASE - 18 - height} ${to} ${BASE - 18}`;
      const sign = on && state.arcs === "account" ? (amounts[k] < 0 ? " against" : " for") : "";
      out.push(svg("path", { class: "arc" + (on ? " on" : "") + sign, d: path, "stroke-width": Math.max(.8, 13 * Math.abs(amounts[k]) / (state.arcs === "account" && on ? peak : 1)) }));
    }
    return out;
  }

  function candidate(position, index, k, row) {
    const c = position.candidates[k], mine = index === state.at;
    const y = BASE + 44 + row * ROW, wide = COLUMN - 10, left = x(position.position) - wide / 2;
    const many = !c.private && c.among > 1 && k !== position.came;
    const [text, letters] = fit(label(c.name) + (many ? "\u2026" : ""), wide - 50, 11, 15);
    const classes = ["candidate", c.private ? "private" : "default", k === position.came && "came",
      mine && k === state.pick && "picked", mine && k === state.versus && k !== state.pick && "versus"].filter(Boolean);
    return svg("g", {
      class: classes.join(" "), tabindex: -1, role: "button", "data-at": index, "data-k": k,
      on: { click: (event) => { event.stopPropagation(); const versus = event.shiftKey || state.compare; choose(index, k, versus); if (!versus) pin(c.name); } },
    },
    svg("title", null, `${label(c.name)}  energy ${fixed(c.energy, 4)}  p ${(100 * c.p).toPrecision(3)} %` +
      (c.private ? `  counted ${whole(c.count)}` : `  one of ${whole(c.among)} default edges`)),
    svg("rect", { class: "box", x: left, y, width: wide, height: ROW - 5, rx: 5 }),
    svg("rect", { class: "share", x: left + 1, y: y + 1, width: Math.max(0, (wide - 2) * Math.min(1, shareOf(c))), height: ROW - 7, rx: 4 }),
    svg("text", { class: "token", x: left + 7, y: y + 15.5, style: { fontSize: letters } }, text),
    svg("text", { class: "p", x: left + wide - 5, y: y + 15 }, percent(c.p)));
  }

  function column(position, index) {
    const center = x(position.position), name = label(position.node), [head, letters] = fit(name, 30, 9, 19), shown = candidatesShown(position);
    const told = position.candidates.slice(0, position.contenders).reduce((sum, c, k) => sum + (shown.includes(k) ? shareOf(c) : 0), 0);
    const group = svg("g", {
      class: "column" + (index === state.at ? " here" : "") + (position.silent ? " silent" : ""), "data-at": index,
      on: { click: () => { go(index); pin(position.node); } },
    },
    svg("rect", { class: "plate", x: center - COLUMN / 2 + 1, y: BASE - 24, width: COLUMN - 2, height: 84 + ROW * 24, rx: 8 }),
    svg("line", { class: "guide", x1: center, x2: center, y1: BASE + 18, y2: BASE + 40 }),
    svg("g", { class: "position", tabindex: index === state.at ? 0 : -1, role: "button" },
      svg("title", null, `${name}, position ${position.position}`),
      svg("circle", { class: "disc", cx: center, cy: BASE, r: 18 }),
      svg("text", { class: "head token", x: center, y: BASE, style: { fontSize: letters } }, head),
      svg("text", { class: "soft", x: center, y: BASE + 33, "text-anchor": "middle" }, String(position.position))),
    shown.map((k, row) => candidate(position, index, k, row)),
    svg("text", { class: "soft", x: center, y: BASE + 57 + shown.length * ROW, "text-anchor": "middle" }, `${percent(Math.max(0, 1 - told))} else`));
    return [group, shown.length];
  }

  function draw() {
    const positions = trace().positions, columns = [], lines = [];
    let rows = 1;
    positions.forEach((position, index) => {
      const [group, count] = column(position, index);
      columns.push(group);
      rows = Math.max(rows, count);
      if (index !== state.at) lines.push(arcs(position, false));
    });
    lines.push(arcs(here(), true));
    const width = LEFT + positions.length * COLUMN + 20, height = BASE + 70 + rows * ROW;
    for (const column of columns) column.querySelector(".plate").setAttribute("height", height - BASE + 18);
    const picture = $("picture");
    picture.setAttribute("width", width);
    picture.setAttribute("height", height);
    picture.setAttribute("viewBox", `0 ${TOP} ${width} ${height - TOP}`);
    picture.replaceChildren(svg("g", null, columns), svg("g", null, lines.flat()));
  }

  // ---- the panels

  const BAR = (value, most, kind) => html("div", { class: "bar" }, kind === "weight"
    ? html("i", { class: "weight", style: { left: 0, width: 100 * value / most + "%" } })
    : [html("u", { style: { left: "50%" } }), html("i", { class: value < 0 ? "against" : "for",
      style: { left: (value < 0 ? 50 + 50 * value / most : 50) + "%", width: Math.max(.3, 50 * Math.abs(value) / most) + "%" } })]);

  const signalCell = (at) => at === null ? [html("span", null, "all earlier signals")]
    : [html("span", { class: "tag" }, String(at)), " ", token(signalName(at))];

  function drawAccount() {
    const position = here(), a = position.candidates[state.pick], b = position.candidates[state.versus];
    put("contest-title", state.pick === state.versus ? "One candidate" : "Why ", state.pick === state.versus ? "" : token(a.name), state.pick === state.versus ? "" : " rather than ", state.pick === state.versus ? "" : token(b.name), state.pick === state.versus ? "" : "?");
    const came = position.came === null ? [] : [" The next token is ", html("b", null, token(position.candidates[position.came].name)), position.rank
      ? `: rank ${whole(position.rank)}, ${position.loss.toFixed(2)} nats.` : ", which is not a candidate here."];
    const edge = (c) => c.private ? `over a private edge counted ${whole(c.count)} times` : c.among > 1 ? `as one of ${whole(c.among)} default edges` : "over a default edge";
    put("contest", `The source at position ${position.position} is `, html("b", null, sourceName(position.source)),
      ` (${whole(position.edges)} private edges). `, html("b", null, token(a.name)), ` has energy ${a.energy.toFixed(3)} (${percent(a.p)}), ${edge(a)}; `,
      html("b", null, token(b.name)), ` has ${b.energy.toFixed(3)} (${percent(b.p)}), ${edge(b)}.`, came,
      position.unknown > .02 ? ` <unk>, which has ${percent(position.unknown)} in evaluation, is left out.` : "");
    const parts = split(position), margin = marginOf(position);
    const mixed = parts.signals.map((value, k) => [k, value]).filter(([k]) => position.weights[k] !== 0);
    const strong = mixed.toSorted((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, SIGNALS).sort((a, b) => b[0] - a[0]);
    const lines = strong.map(([k, value]) => [signalCell(signalAt(position, k)), value, "signal"]);
    const rest = mixed.reduce((sum, [, value]) => sum + value, 0) - strong.reduce((sum, [, value]) => sum + value, 0);
    if (mixed.length > strong.length) lines.push([[`${mixed.length - strong.length} other signals`], rest, "part"]);
    if (data.base) lines.push([["the positions together"], parts.together, "part"]);
    if (data.base) lines.push([["counts after ", token(position.node)], parts.counts, "part"]);
    parts.clones.forEach((value, k) => lines.push([["counts after ", ...sourceName(position.source.slice(-2 - k))], value, "part"]));
    if (parts.repetition) lines.push([["repetition"], parts.repetition, "part"]);
    lines.push([["biases of the two edges"], parts.bias, "part"]);
    if (data.encoded) lines.push([["positional encoding"], parts.encoding, "part"]);
    const most = Math.max(1e-9, ...lines.map(([, value]) => Math.abs(value)), Math.abs(margin));
    put("account", html("table", { id: "account-table" },
      html("thead", null, html("tr", null, html("th", null, "part"), html("th", { class: "number" }, "energy"), html("td"))),
      html("tbody", null, lines.map(([name, value, kind]) => html("tr", { class: kind, "data-value": value }, html("td", null, name),
        html("td", { class: "number" }, signed(value, 4)), html("td", { class: "chart" }, BAR(value, most)))),
      html("tr", { class: "part", "data-value": parts.remainder }, html("td", null, "remainder (rounding)"),
        html("td", { class: "number" }, parts.remainder === 0 ? "0" : parts.remainder.toExponential(0).replace("-", "\u2212")), html("td")),
      html("tr", { class: "total", "data-value": margin }, html("td", null, "margin"), html("td", { class: "number" }, signed(margin, 4)),
        html("td", null, ` ${signed(margin * data.scale, 3)} nats: ${ratio(margin * data.scale)}`)))));
  }
  const ratio = (nats) => { const times = Math.exp(Math.abs(nats)); return (times > 1e4 ? times.toExponential(1) : times.toPrecision(3)) + (nats < 0 ? " times less likely" : " times as likely"); };

  function drawMix() {
    const position = here(), rows = position.weights.map((w, k) => [signalAt(position, k), w]).filter(([, w]) => w > 0);
    rows.sort((a, b) => b[1] - a[1]);
    const rest = rows.slice(12).reduce((sum, [, w]) => sum + w, 0);
    put("mix", rows.length === 0 ? html("p", null, "Empty: only biases contribute.") : html("table", null,
      rows.slice(0, 12).map(([at, w]) => html("tr", null, html("td", null, signalCell(at)),
        html("td", { class: "number" }, percent(w)), html("td", { class: "chart" }, BAR(w, rows[0][1], "weight")))),
      rest > 0 ? html("tr", { class: "part" }, html("td", null, `${rows.length - 12} more`), html("td", { class: "number" }, percent(rest)), html("td")) : null));
  }

  function neighbours(title, list, norms) {
    return html("div", null, html("table", null, html("tr", null, html("th", null, title), html("th", { class: "number" }, "counted"), norms ? html("th", { class: "number" }, "|W|") : null, norms ? html("th", { class: "number" }, "|b|") : null),
      list.map(([name, count, weight, bias]) => html("tr", null,
        html("td", null, html("button", { type: "button", class: "link token", on: { click: () => pin(name) } }, label(name))),
        html("td", { class: "number" }, whole(count)),
        norms ? html("td", { class: "number" }, weight === undefined ? "" : weight.toFixed(2)) : null,
        norms ? html("td", { class: "number" }, bias === undefined ? "" : bias.toFixed(1)) : null))));
  }

  function drawNode() {
    const name = state.pin === null ? here().node : state.pin, card = data.cards[name];
    put("node-title", token(name), state.pin === null ? "" : [" ", html("span", { class: "tag" }, "pinned")]);
    if (!card) return put("node", html("p", null, "The page has no data of this node."));
    put("node", html("p", null, `Counted ${whole(card.count)} times. ${whole(card.edges_out)} private edges out, ${whole(card.edges_in)} in; |b| of the node ${card.norm.toFixed(2)}.`),
      html("div", { class: "columns" }, neighbours("strongest out", card.out, card.out.some((e) => e.length > 2)), neighbours("strongest in", card.in, false)));
  }

  function drawHead() {
    put("title", html("q", null, spelled()));
    const change = trace().what_if.length ? ` With ${trace().what_if.map(plain).join(", ")}.` : "";
    put("about", data.about + change);
    $("mass").value = state.mass;
    $("mass-value").textContent = state.mass + " %";
    $("compare").setAttribute("aria-pressed", String(state.compare));
    for (const button of document.querySelectorAll("[data-arcs]")) button.setAttribute("aria-pressed", String(button.dataset.arcs === state.arcs));
    for (const button of document.querySelectorAll("[data-version]")) button.setAttribute("aria-pressed", String(Number(button.dataset.version) === state.version));
  }

  function render() { drawHead(); draw(); drawAccount(); drawMix(); drawNode(); }

  // ---- actions

  function focusOn(selector) {
    const element = document.querySelector(selector);
    if (element) { element.focus({ preventScroll: true }); element.scrollIntoView({ block: "nearest", inline: "nearest" }); }
  }
  function go(index) {
    state.at = Math.max(0, Math.min(trace().positions.length - 1, index));
    state.pick = 0;
    state.versus = here().contenders > 1 ? 1 : 0;
    render();
    focusOn(`.column[data-at="${state.at}"] .position`);
  }
  function choose(index, k, versus) {
    if (index !== state.at) { state.at = index; state.pick = 0; state.versus = here().contenders > 1 ? 1 : 0; }
    if (versus) { state.versus = k; state.compare = false; }
    else {
      state.pick = k;
      if (state.versus === k) state.versus = k === 0 ? Math.min(1, here().candidates.length - 1) : 0;
      else if (k !== 0 && state.versus === 1) state.versus = 0;
      else if (k === 0) state.versus = Math.min(1, here().candidates.length - 1);
    }
    render();
    focusOn(`.candidate[data-at="${state.at}"][data-k="${k}"]`);
  }
  function pin(name) { state.pin = name; drawNode(); }
  function mass(value) { state.mass = Math.max(5, Math.min(100, value)); render(); }
  function arcsBy(kind) { state.arcs = kind; render(); }
  function version(which) {
    state.version = which;
    state.at = Math.min(state.at, trace().positions.length - 1);
    state.pick = 0;
    state.versus = here().contenders > 1 ? 1 : 0;
    render();
  }

  $("mass").addEventListener("input", (event) => mass(Number(event.target.value)));
  for (const button of document.querySelectorAll("[data-arcs]")) button.addEventListener("click", () => arcsBy(button.dataset.arcs));
  $("compare").addEventListener("click", () => { state.compare = !state.compare; drawHead(); });
  $("scheme").addEventListener("click", switchScheme);
  if (data.traces.length > 1) {
    $("versions").hidden = $("version-key").hidden = false;
    ["before", "after"].forEach((name, k) => $("versions").append(html("button", { type: "button", "data-version": k, on: { click: () => version(k) } }, name)));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const slider = event.target === $("mass"), button = event.target instanceof HTMLButtonElement;
    const shown = candidatesShown(here()), row = shown.indexOf(state.pick);
    const keys = {
      ArrowLeft: () => go(state.at - 1), ArrowRight: () => go(state.at + 1), Home: () => go(0), End: () => go(Infinity),
      ArrowUp: () => choose(state.at, shown[Math.max(0, row - 1)]), ArrowDown: () => choose(state.at, shown[Math.min(shown.length - 1, row + 1)]),
      Enter: () => pin(document.activeElement.classList.contains("candidate") ? here().candidates[state.pick].name : here().node),
      v: () => { const k = state.pick; state.pick = state.versus; choose(state.at, k, true); },
      Escape: () => pin(null), "[": () => mass(state.mass - 5), "]": () => mass(state.mass + 5),
      a: () => arcsBy(state.arcs === "weight" ? "account" : "weight"),
      w: () => data.traces.length > 1 && version(1 - state.version),
    };
    const key = event.key === " " ? "Enter" : event.key;
    if ((slider && /^(Arrow|Home|End)/.test(key)) || ((slider || button) && key === "Enter") || !Object.hasOwn(keys, key)) return;
    event.preventDefault();
    keys[key]();
  });

  if (data.base) {  // there is no mix: a position moves the one signal
    document.querySelector("[data-arcs='weight']").textContent = "how far it moves the signal";
    put("mix-title", "How far each position moves the signal");
  }
  state.at = trace().positions.length - 1;
  state.versus = here().contenders > 1 ? 1 : 0;
  if (data.last_choice && state.at > 0) {
    state.at -= 1;
    state.pick = here().came ?? 0;
    state.versus = state.pick === 0 ? Math.min(1, here().candidates.length - 1) : 0;
  }
  document.title = spelled() + " \u00b7 sifu trace";
  render();
  $("scroll").scrollLeft = $("scroll").scrollWidth;
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
