"use strict";
// Draws the map of the page's data. Names of nodes are set as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const nodes = data.nodes, edges = data.edges, size = nodes.name.length;
  const LISTED = 12;
  const COLOURS = data.colours, OTHER = "#8d887c";
  const colourOf = (group) => COLOURS[group] || OTHER;
  const count = (n) => n.toLocaleString("en-US");

  // ---- the graph

  const graph = new graphology.DirectedGraph();
  const most = Math.max(...nodes.count);
  for (let i = 0; i < size; i++) {
    graph.addNode(i, {
      x: nodes.x[i], y: nodes.y[i], label: nodes.name[i], color: colourOf(nodes.group[i]),
      size: 2 + 12 * Math.sqrt(nodes.count[i] / most),
      forceLabel: i >= size - data.clones,  // their names are what they are unfolded for
    });
  }
  const out = Array.from({ length: size }, () => []), into = Array.from({ length: size }, () => []);
  const width = (k) => 0.35 + 1.9 * Math.sqrt(Math.max(0, (edges.strength[k] - low) / (high - low || 1)));
  const low = Math.min(0, edges.strength[edges.strength.length - 1]), high = edges.strength[0];
  for (let k = 0; k < edges.source.length; k++) {  // the strongest first, so the lists are sorted
    out[edges.source[k]].push(k);
    into[edges.target[k]].push(k);
    graph.addEdgeWithKey(k, edges.source[k], edges.target[k], { size: width(k) });
  }

  // ---- what is shown

  let pinned = null, hovered = null, group = null, near = null;
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let theme = {};
  const readTheme = () => {
    theme = { ink: style("--ink"), paper: style("--paper"), faint: style("--faint"), edge: style("--edge"), soft: style("--soft") };
    theme.tint = COLOURS.concat(OTHER).map((colour) => clear(colour, 0.4));
    theme.pale = clear(theme.soft, 0.1);
  };
  const clear = (colour, alpha) => {  // the renderer expects colours multiplied by their alpha
    const [r, g, b] = [1, 3, 5].map((i) => Math.round(alpha * parseInt(colour.slice(i, i + 2), 16)));
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  };
  const focus = () => (hovered !== null ? hovered : pinned);
  const neighbours = (node) => new Set([node, ...graph.neighbors(node).map(Number)]);

  const nodeReducer = (key, attributes) => {
    const i = Number(key), shown = { ...attributes };
    if (near) {
      if (!near.has(i)) return { ...shown, label: "", color: theme.faint, zIndex: 0 };
      return { ...shown, zIndex: 2, highlighted: i === focus(), forceLabel: i === focus() || graph.degree(focus()) <= 40 };
    }
    if (group !== null) {
      if (nodes.group[i] !== group) return { ...shown, label: "", color: theme.faint, zIndex: 0 };
      shown.zIndex = 2;
    }
    return shown;
  };
  const edgeReducer = (key, attributes) => {
    const k = Number(key), source = edges.source[k], target = edges.target[k], at = focus();
    if (at !== null) {
      if (source !== at && target !== at) return { ...attributes, hidden: true };
      return { ...attributes, color: colourOf(nodes.group[source]), size: attributes.size + 0.5, zIndex: 2 };
    }
    const same = nodes.group[source] === nodes.group[target];
    if (group !== null) {
      if (nodes.group[source] !== group && nodes.group[target] !== group) return { ...attributes, hidden: true };
      return { ...attributes, color: same ? colourOf(group) : theme.edge };
    }
    return { ...attributes, color: same ? theme.tint[Math.min(nodes.group[source], COLOURS.length)] : theme.pale };
  };

  const LABEL = 13, FOCUSED = LABEL + 5, SMALLEST = 3.2;  // pixels; nodes that are drawn smaller have no name
  const BESIDE = [[1, 0], [-1, 0], [0, -1], [0, 1]];  // where a name may stand: right of its node, left, above, below
  const fontOf = (size) => `${size > LABEL ? 600 : 400} ${size}px ${getComputedStyle(document.body).fontFamily}`;
  const widths = new Map();
  const widthOf = (context, text, size) => {
    const key = `${size} ${text}`;
    if (!widths.has(key)) {
      context.font = fontOf(size);
      widths.set(key, context.measureText(text).width);
    }
    return widths.get(key);
  };
  // The box of a name beside a disc; [across, down] as in BESIDE.
  const boxOf = (context, node, size, [across, down]) => {
    const wide = widthOf(context, node.label, size) / 2 + 1, high = size / 2 + 1;
    const x = node.x + across * (node.size + 2 + wide), y = node.y + down * (node.size + 1 + high);
    return { name: node.label, size, left: x - wide, right: x + wide, top: y - high, bottom: y + high };
  };
  const write = (context, box) => {
    context.font = fontOf(box.size);
    context.textBaseline = "middle";
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.strokeStyle = theme.paper;
    context.fillStyle = theme.ink;
    context.strokeText(box.name, box.left + 1, (box.top + box.bottom) / 2);
    context.fillText(box.name, box.left + 1, (box.top + box.bottom) / 2);
  };
  const hover = (context, node) => {
    context.beginPath();
    context.arc(node.x, node.y, node.size + 3, 0, 2 * Math.PI);
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.5;
    context.stroke();
    const box = renderer.labels.find((one) => one.node === Number(node.key));
    if (box) write(context, box);
  };

  // A frame is slow without a graphics card: the last picture is moved instead, and drawn again when it stops moving.
  const REST_MS = 150, LATE_MS = 150;
  class Renderer extends Sigma {
    // Names do not cross each other or the rim; the focused node is named first, then the wanted ones, then the largest.
    renderLabels() {
      const context = this.getCanvases().labels.getContext("2d"), { width, height } = this.getDimensions();
      const at = focus(), shown = [];
      for (let i = 0; i < size; i++) {
        const data = this.getNodeDisplayData(i), drawn = this.scaleSize(data.size);
        if (!data.label || !(data.forceLabel || drawn >= SMALLEST)) continue;
        const place = this.framedGraphToViewport(data);
        if (place.x < 0 || place.y < 0 || place.x > width || place.y > height) continue;
        shown.push({ ...place, i, label: data.label, size: drawn, rank: i === at ? 0 : data.forceLabel ? 1 : 2 });
      }
      shown.sort((one, other) => one.rank - other.rank || other.size - one.size);
      this.labels = [];
      const free = (box) =>
        box.left >= 0 && box.top >= 0 && box.right <= width && box.bottom <= height &&
        this.labels.every((b) => b.right <= box.left || b.left >= box.right || b.bottom <= box.top || b.top >= box.bottom);
      for (const node of shown) {
        const boxes = BESIDE.map((beside) => boxOf(context, node, node.i === at ? FOCUSED : LABEL, beside));
        const box = boxes.find(free);
        if (!box) continue;
        this.labels.push({ ...box, node: node.i });
        if (node.i !== at) write(context, box);  // the focused one is written on top of the nodes
      }
      return this;
    }
    scheduleRender() {
      if (!this.slow) return super.scheduleRender();
      const now = this.getCamera().getState(), { width, height } = this.getDimensions();
      const at = this.framedGraphToViewport(this.drawn, { cameraState: now });
      this.place(`translate(${at.x - width / 2}px, ${at.y - height / 2}px) scale(${this.drawn.ratio / now.ratio})`);
      clearTimeout(this.resting);
      this.resting = setTimeout(() => super.scheduleRender(), REST_MS);
      return this;
    }
    place(transform) {
      const { mouse, ...canvases } = this.getCanvases();  // positions of the mouse are relative to its canvas
      for (const canvas of Object.values(canvases)) canvas.style.transform = transform;
      this.moved = transform !== "";
    }
    settled() {
      this.drawn = this.getCamera().getState();
      if (this.moved) this.place("");
    }
  }

  readTheme();
  const renderer = new Renderer(graph, $("map"), {
    nodeReducer, edgeReducer, defaultDrawNodeHover: hover, zIndex: true, minCameraRatio: 0.02, maxCameraRatio: 3, stagePadding: 40,
    allowInvalidContainer: true,
  });
  renderer.on("afterRender", () => renderer.settled());
  renderer.settled();
  const camera = renderer.getCamera();
  const drawer = () => {
    const gl = renderer.getCanvases().nodes.getContext("webgl2"), named = gl && gl.getExtension("WEBGL_debug_renderer_info");
    return named ? gl.getParameter(named.UNMASKED_RENDERER_WEBGL) : "";
  };
  renderer.slow = /swiftshader|llvmpipe|softpipe|software|basic render/i.test(drawer());
  camera.on("updated", () => {
    if (renderer.slow) return;
    const began = performance.now();
    requestAnimationFrame(() => requestAnimationFrame((now) => { if (now - began > LATE_MS) renderer.slow = true; }));
  });
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const glide = camera.animate.bind(camera);  // the renderer's own zooming and coasting call it too
  camera.animate = async (state, options, done) => {
    if (!calm.matches) return glide(state, options, done);
    camera.setState(camera.validateState(state));
    done?.();
  };
  const look = (state) => camera.animate(state, { duration: 350 });
  const zoom = (factor) => look({ ratio: camera.ratio * factor });
  new ResizeObserver(() => {
    const { width, height } = renderer.getDimensions();
    if ($("map").offsetWidth !== width || $("map").offsetHeight !== height) renderer.refresh();
  }).observe($("map"));

  const refresh = () => {
    near = focus() === null ? null : neighbours(focus());
    renderer.refresh({ skipIndexation: true });
  };

  // ---- the card of a node

  const cell = (row, text, tag = "td") => {
    const made = document.createElement(tag);
    made.textContent = text;
    row.append(made);
    return made;
  };
  const list = (table, ks, other) => {
    table.tBodies[0].replaceChildren();
    const head = table.insertRow();
    for (const text of ["", "energy", "p", "count"]) cell(head, text, "th");
    for (const k of ks.slice(0, LISTED)) {
      const row = table.insertRow(), button = document.createElement("button"), node = other[k];
      button.type = "button";
      button.textContent = nodes.name[node];
      button.addEventListener("click", () => pin(node, true));
      row.insertCell().append(button);
      cell(row, edges.energy[k].toFixed(2));
      cell(row, (100 * edges.p[k]).toFixed(edges.p[k] < 0.0995 ? 1 : 0) + " %");
      cell(row, count(edges.count[k]));
    }
    if (!ks.length) cell(table.insertRow(), "none on this map");
  };

  function pin(node, move) {
    pinned = node;
    hovered = null;
    $("card").hidden = node === null;
    if (node !== null) {
      $("name").textContent = nodes.name[node];
      $("facts").textContent =
        `${count(nodes.count[node])} times in the corpus; community ${nodes.group[node] + 1}; ` +
        `${out[node].length} edges out and ${into[node].length} in on this map`;
      list($("out"), out[node], edges.target);
      list($("in"), into[node], edges.source);
      $("side").scrollTop = 0;
      if (move) {
        const at = renderer.getNodeDisplayData(node);
        look({ x: at.x, y: at.y, ratio: Math.min(camera.ratio, 0.35) });
      }
    }
    refresh();
  }

  renderer.on("clickNode", ({ node }) => pin(Number(node), false));
  const FINGER = 18;  // pixels: a touch that close to a node means it
  const closest = ({ x, y }) => {
    const away = (i) => {
      const at = renderer.framedGraphToViewport(renderer.getNodeDisplayData(i));
      return Math.hypot(at.x - x, at.y - y);
    };
    const found = nodes.name.reduce((best, _, i) => (away(i) < best.away ? { i, away: away(i) } : best), { i: null, away: FINGER });
    return found.i;
  };
  renderer.on("clickStage", ({ event }) => {
    const meant = event.original instanceof MouseEvent ? null : closest(event);
    if (meant !== pinned) pin(meant, false);
  });
  renderer.on("enterNode", ({ node }) => {
    if (renderer.moved) return;
    hovered = Number(node);
    $("map").style.cursor = "pointer";
    refresh();
  });
  renderer.on("leaveNode", () => {
    if (hovered === null) return;
    hovered = null;
    $("map").style.cursor = "";
    refresh();
  });

  // ---- search, communities, scheme, keys

  const say = (text) => { $("message").textContent = text; };
  const places = new Map(nodes.name.map((name, i) => [name, i]));
  for (const name of nodes.name) $("names").append(new Option(name));
  const find = () => {
    const text = $("search").value;
    say("");
    if (!text) return;
    let found = places.get(text) ?? places.get(text.trim());
    if (found === undefined) found = nodes.name.findIndex((name) => name.toLowerCase().includes(text.trim().toLowerCase()));
    if (found < 0) say(`No node of this map has ${text} in its name.`);
    else pin(found, true);
  };
  $("find").addEventListener("submit", (event) => { event.preventDefault(); find(); });
  $("search").addEventListener("input", () => { if (places.has($("search").value)) find(); });

  const choose = (which) => {
    group = group === which ? null : which;
    for (const button of $("groups").children) button.setAttribute("aria-pressed", String(Number(button.value) === group));
    refresh();
  };
  data.groups.forEach((members, i) => {
    const button = document.createElement("button"), dot = document.createElement("span");
    button.type = "button";
    button.value = i;
    button.setAttribute("aria-pressed", "false");
    dot.className = "dot";
    dot.style.background = colourOf(i);
    button.append(dot);
    cell(button, i + 1, "span");
    cell(button, members.names.join(" "), "span").className = "names";
    cell(button, count(members.size), "span");
    button.addEventListener("click", () => choose(i));
    $("groups").append(button);
  });

  const restart = () => { group = null; for (const b of $("groups").children) b.setAttribute("aria-pressed", "false"); pin(null, false); look({ x: 0.5, y: 0.5, ratio: 1, angle: 0 }); };
  $("all").addEventListener("click", restart);
  $("into").addEventListener("click", () => zoom(1 / 1.4));
  $("out-of").addEventListener("click", () => zoom(1.4));
  $("close").addEventListener("click", () => pin(null, false));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const repaint = () => { readTheme(); refresh(); };
  dark.addEventListener("change", repaint);
  $("scheme").addEventListener("click", () => {
    const root = document.documentElement, now = root.dataset.scheme || (dark.matches ? "dark" : "light");
    root.dataset.scheme = now === "dark" ? "light" : "dark";
    repaint();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target === $("search");
    if (event.key === "Escape") { if (typing) $("search").blur(); pin(null, false); }
    else if (event.key === "/" && !typing) { event.preventDefault(); $("search").focus(); $("search").select(); }
    if (event.target !== $("map")) return;
    const step = 0.12 * camera.ratio;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) look({ x: camera.x + moves[event.key][0], y: camera.y + moves[event.key][1] });
    else if (event.key === "+" || event.key === "=") zoom(1 / 1.4);
    else if (event.key === "-") zoom(1.4);
    else if (event.key === "0") restart();
  });

  $("about").open = matchMedia("(min-aspect-ratio: 1/1) and (min-height: 600px)").matches;
  $("about").firstChild.textContent = `${count(size)} nodes, ${count(edges.source.length)} edges, ${data.groups.length} communities`;
  $("about").lastChild.textContent =
    `${data.summary}. ${data.by[0].toUpperCase() + data.by.slice(1)}: ${data.meaning}. Colours: communities. ` +
    `Snapshot ${data.snapshot.slice(0, 8)}. Keys: / finds a node, arrows, + and - move and zoom the map, 0 shows all of it.`;
  document.documentElement.dataset.ready = "true";
  window.sifuMap = { renderer, graph, pin };  // for the console
})();
