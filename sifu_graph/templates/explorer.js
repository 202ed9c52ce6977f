// The page of a server: a prompt, its continuation token by token, the candidates of each, edits and their history.
// Names come from text, so they are set as text (textContent) only and never parsed as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const state = { graph: null, tokens: [], chosen: -1, running: null, draft: [], saved: null };
  const LISTED = 12;

  // ---- the token of the address: #token=...

  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) { sessionStorage.setItem("token", given); history.replaceState(null, "", location.pathname); }
  let token = sessionStorage.getItem("token") || "";
  if (data.token && !token) { token = prompt("The token of this server") || ""; sessionStorage.setItem("token", token); }

  async function ask(path, body) {
    const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal: state.running?.signal });
    if (!answer.ok) {
      const found = await answer.json().catch(() => null);
      throw new Error(found?.error?.message || `the server answered with status ${answer.status}`);
    }
    return answer;
  }

  function element(tag, attributes, ...children) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === false || value === null || value === undefined) continue;
      if (name === "click") found.addEventListener("click", value);
      else found.setAttribute(name, value === true ? "" : value);
    }
    found.append(...children);
    return found;
  }
  const percent = (p) => p >= 0.0995 ? (100 * p).toFixed(0) + " %" : p >= 0.0001 ? (100 * p).toPrecision(2) + " %" : "< 0.01 %";
  const shade = (p) => p >= 0.3 ? "p3" : p >= 0.05 ? "p2" : p >= 0.01 ? "p1" : "p0";

  function complain(error) {
    if (error.name === "AbortError") return;
    $("error").textContent = error.message;
    $("error").hidden = false;
  }

  // ---- the text

  function drawText() {
    $("text").replaceChildren(...state.tokens.map((one, k) => element("button", {
      type: "button", class: "token " + (one.generated ? shade(one.p) : "prompt"), "aria-pressed": String(k === state.chosen),
      "aria-label": `${visible(one.name)}${one.p === null ? "" : ", " + percent(one.p)}`, click: () => choose(k),
    }, one.text || visible(one.name))));
  }

  const plain = () => state.tokens.map((one) => one.text).join("");

  function add(part) {
    const found = part.logprobs;
    for (let k = 0; k < found.tokens.length; k += 1) {
      const log = found.token_logprobs[k];
      state.tokens.push({
        name: found.tokens[k], offset: found.text_offset[k], p: log === null ? null : Math.exp(log),
        top: Object.entries(found.top_logprobs?.[k] || {}).map(([name, value]) => [name, Math.exp(value)]),
        generated: found.text_offset[k] >= state.prompt.length, text: "",
      });
    }
    state.whole += part.text;
    const letters = [...state.whole];  // offsets count characters, not UTF-16 units
    state.tokens.forEach((one, k) => {
      const end = k + 1 < state.tokens.length ? state.tokens[k + 1].offset : letters.length;
      one.text = letters.slice(one.offset, end).join("");
    });
  }

  async function run() {
    if (state.running) { state.running.abort(); return; }
    if (!state.draft.length) state.saved = null;
    state.running = new AbortController();
    state.prompt = [...$("prompt").value];
    $("run").textContent = "Stop";
    $("error").hidden = true;
    Object.assign(state, { tokens: [], whole: "", chosen: -1 });
    $("panel").hidden = $("trace").hidden = true;
    try {
      const answer = await ask("/v1/completions", {
        prompt: $("prompt").value, max_tokens: Number($("tokens").value), temperature: Number($("temperature").value), top_p: Number($("top-p").value),
        seed: Number($("seed").value), logprobs: LISTED, echo: true, stream: true, what_if: state.draft,
      });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let held = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (held + value).split("\n\n");
        held = events.pop();
        for (const event of events) {
          if (!event.startsWith("data: {")) continue;
          const found = JSON.parse(event.slice(6));
          if (found.error) throw new Error(found.error.message);
          if (found.choices.length) add(found.choices[0]);
        }
        drawText();
      }
    } catch (error) { complain(error); }
    state.running = null;
    $("run").textContent = "Continue";
    if (!state.draft.length) state.saved = { tokens: state.tokens, text: plain() };
    drawText();
    document.documentElement.dataset.done = String(Number(document.documentElement.dataset.done || 0) + 1);
  }

  // ---- one token

  const sourceOf = (k) => k === 0 ? "<sep>" : state.tokens[k - 1].name;

  function choose(k, focus = true) {
    state.chosen = k;
    const one = state.tokens[k], rows = [...one.top];
    if (!rows.some(([name]) => name === one.name) && one.p !== null) rows.push([one.name, one.p]);
    $("token-title").replaceChildren("After ", element("span", { class: "token" }, visible(sourceOf(k))), ": ", element("span", { class: "token" }, visible(one.name)), one.p === null ? "" : `, ${percent(one.p)}`);
    const said = state.graph.drafts ? " A change is tried in memory." + (state.graph.editable ? " Keep makes it a commit." : "") : state.graph.editable ? " A change is a commit, which Undo takes back." : "";
    $("token-about").textContent = "Probabilities of the graph itself, at temperature 1." + said;
    const was = before(k), nats = Number($("nats").value);
    const ways = [["+", "boost", nats, `+ ${nats} nats`], ["\u2212", "boost", -nats, `\u2212 ${nats} nats`], ["forbid", "forbid", null, "forbid"]];
    $("candidates").tBodies[0].replaceChildren(...rows.map(([name, p]) => element("tr", { class: name === one.name ? "came" : false },
      element("td", { class: "token" }, element("button", { type: "button", title: "the edge: its counts and neighbours", click: () => account(name) }, visible(name))),
      element("td", { class: "p" }, element("meter", { min: 0, max: 1, value: p, "aria-label": percent(p) }), percent(p)),
      element("td", { class: "was" }, was && name in was ? percent(was[name]) : ""),
      element("td", { class: "changes" }, ...(name === "<unk>" ? [] : [...ways.map(([label, kind, amount, said]) =>
        element("button", { type: "button", "aria-label": `${said}: ${visible(sourceOf(k))} to ${visible(name)}`, click: () => change([{ kind, u: sourceOf(k), v: name, amount }]) }, label)),
      element("input", { type: "checkbox", value: name, "aria-label": `mark ${visible(sourceOf(k))} to ${visible(name)}` })])))));
    $("group").replaceChildren($("group-about"), ...ways.map(([label, kind, amount, said]) => element("button", { type: "button", "aria-label": `${said}: all marked candidates`, click: () => {
      const marked = [...document.querySelectorAll("#candidates input:checked")].map((box) => ({ kind, u: sourceOf(k), v: box.value, amount }));
      if (marked.length) change(marked); else complain(new Error("Mark candidates first: the box at the end of each row."));
    } }, label)));
    $("panel").hidden = false;
    $("why").disabled = !one.text;
    $("trace").hidden = true;
    drawText();
    if (focus) $("text").children[k].focus();
  }

  // The probabilities without the changes, where the text before this token is the same.
  function before(k) {
    if (!state.draft.length || !state.saved || state.saved.tokens.length <= k) return null;
    for (let j = 0; j < k; j += 1) if (state.saved.tokens[j].name !== state.tokens[j].name) return null;
    return Object.fromEntries(state.saved.tokens[k].top);
  }

  function why() {
    const one = state.tokens[state.chosen];
    const asked = new URLSearchParams({ text: [...state.whole].slice(0, one.offset).join("") + one.text });
    for (const change of state.draft) asked.append("what_if", change);
    if (token) asked.set("token", token);
    $("frame").hidden = false;
    $("frame").src = `/api/why?${asked}`;
    account(one.name, true);
  }

  // ---- the edge of a candidate: what `sifu inspect U V` says

  const number = (x, digits = 2) => x.toFixed(digits).replace("-", "\u2212");
  const list = (title, rows, names = true) => rows.length ? [element("div", {}, element("h4", {}, title), element("table", {}, element("tbody", {}, ...rows.map(([name, value]) =>
    element("tr", {}, element("td", { class: names && "token" }, name), element("td", {}, value))))))] : [];

  function spectrum(values) {
    const names = "http://www.w3.org/2000/svg", drawn = document.createElementNS(names, "svg"), width = 100 / values.length;
    drawn.setAttribute("viewBox", "0 0 100 40");
    drawn.setAttribute("preserveAspectRatio", "none");
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", `${values.length} singular values, from ${values[0].toPrecision(3)} to ${values.at(-1).toPrecision(3)}`);
    values.forEach((value, k) => {
      const bar = document.createElementNS(names, "rect"), height = 40 * value / (values[0] || 1);
      for (const [name, at] of [["x", k * width], ["y", 40 - height], ["width", 0.8 * width], ["height", height]]) bar.setAttribute(name, at);
      drawn.append(bar);
    });
    return element("div", {}, element("h4", {}, "Singular values of its matrix"), drawn, element("p", { class: "soft" }, `${values[0].toPrecision(3)} to ${values.at(-1).toPrecision(3)}`));
  }

  async function account(name, traced = false) {
    const u = sourceOf(state.chosen), asked = new URLSearchParams({ u, v: name });
    if (!traced) $("frame").hidden = true;
    $("trace").hidden = false;
    $("edge-title").textContent = `The edge ${visible(u)} ${visible(name)}`;
    $("edge").replaceChildren();
    try {
      const one = await (await ask(`/api/edge?${asked}`)).json();
      if ($("edge-title").textContent !== `The edge ${visible(u)} ${visible(name)}`) return;  // another was asked for since
      const parts = one.parts === null ? [] : [["of the counts", one.parts.counts], ["of the clone", one.parts.clones], ["of the target", one.parts.bias], ["of edits", one.parts.edge]];
      $("edge").replaceChildren(
        ...list(`${one.kind} edge, at rest`, [
          ["count", one.count === null ? "not stored" : one.count.toLocaleString("en-US")], ["share of the counts", one.share === null ? "\u2013" : percent(one.share)], ["probability", percent(one.p)],
          ["rank", one.rank.toLocaleString("en-US")], ["energy", one.energy === null ? "\u2212\u221e" : number(one.energy)], ...parts.filter(([, nats]) => nats !== undefined).map(([said, nats]) => [`\u00a0\u00a0${said}`, number(nats)]),
        ], false),
        ...(one.spectrum.length ? [spectrum(one.spectrum)] : []),
        ...list(`Most probable after ${visible(u)}`, one.after.map(([said, p]) => [visible(said), percent(p)])),
        ...list(`Most often before ${visible(name)}`, one.before.map(([said, count]) => [visible(said), count.toLocaleString("en-US")])),
        ...list(`Like ${visible(name)}, by the cosine`, one.like.map(([said, cosine]) => [visible(said), number(cosine)])),
      );
    } catch (error) { complain(error); }
    document.documentElement.dataset.edge = `${u} ${name}`;
    $("trace").scrollIntoView({ block: "nearest" });
  }

  // ---- the graph and its commits

  function drawGraph() {
    const graph = state.graph;
    $("title").textContent = graph.model;
    document.title = `${graph.model} \u00b7 sifu`;
    const perplexity = graph.perplexity === null ? "" : `, held-out perplexity ${graph.perplexity.toFixed(1)}`;
    $("about").textContent = `${graph.nodes.toLocaleString("en-US")} nodes${perplexity}, snapshot ${graph.snapshot.slice(0, 8)}`;
    document.body.classList.toggle("editable", graph.editable);
    document.body.classList.toggle("changeable", graph.editable || graph.drafts);
    $("redo").disabled = !graph.redo;
    $("undo").disabled = graph.commits.filter((commit) => !commit.undone).length < 2;
    $("commits").replaceChildren(...graph.commits.map((commit) => element("li", { class: [commit.here && "here", commit.undone && "undone"].filter(Boolean).join(" ") },
      visible(commit.message).replaceAll("\u2423", " "), element("time", { datetime: commit.time }, new Date(commit.time).toLocaleString()))));
  }

  async function load() {
    state.graph = await (await ask("/api/state")).json();
    drawGraph();
  }

  // ---- changes in memory

  const quoted = (name) => name === "" || /[\s'"\\#]/.test(name) ? `'${name.replaceAll("'", `'"'"'`)}'` : name;

  // A change of an edge, as `sifu trace --what-if` reads it; a boost is added to the one that is there.
  function drafted(changes, { kind, u, v, amount }) {
    const edge = `edge ${quoted(u)} ${quoted(v)}`, others = changes.filter((one) => !one.startsWith(`${edge} `));
    if (kind === "forbid") return [...others, `${edge} forbid`];
    const known = changes.find((one) => one.startsWith(`${edge} boost `));
    const nats = amount + (known ? Number(known.slice(edge.length + 7)) : 0);
    return nats ? [...others, `${edge} boost ${nats}`] : others;
  }

  function drawDraft() {
    document.body.classList.toggle("drafted", state.draft.length > 0);
    $("draft").hidden = !state.draft.length;
    $("before-title").textContent = state.draft.length ? "Without the changes, same seed" : "Before the change, same seed";
    $("changes").replaceChildren(...state.draft.map((one) => element("li", {}, element("span", { class: "token" }, visible(one).replaceAll("\u2423", " ")),
      element("button", { type: "button", "aria-label": `\u00d7, take back: ${visible(one)}`, click: () => draft(state.draft.filter((other) => other !== one)) }, "\u00d7"))));
  }

  async function draft(changes) {
    if (state.running) return;
    state.draft = changes;
    drawDraft();
    $("before").hidden = !changes.length;
    if (changes.length) $("before-text").textContent = state.saved ? state.saved.text : "";
    await again();
    sample().catch(complain);
  }

  async function sample() {
    $("sample").textContent = "";
    if (!state.draft.length) return;
    const asked = new URLSearchParams(state.draft.map((change) => ["what_if", change]));
    state.without ??= (await (await ask("/api/sample")).json());
    const found = await (await ask(`/api/sample?${asked}`)).json();
    if (!found.tokens || !state.draft.length) return;
    const lost = state.without.tokens - found.tokens;
    $("sample").textContent = `Perplexity of ${found.tokens.toLocaleString("en-US")} held-out tokens: ${state.without.perplexity.toFixed(2)} without, ${found.perplexity.toFixed(2)} with the changes.${lost > 0 ? ` ${lost} more could not occur.` : ""}`;
  }

  async function again() {
    const chosen = state.chosen;
    if (!state.tokens.length) return;
    await run();
    if (chosen >= 0 && chosen < state.tokens.length) choose(chosen);
  }

  // Changes of some edges: in memory, or one commit.
  function change(asked) {
    if (state.graph.drafts) return draft(asked.reduce(drafted, state.draft));
    return edit(asked.length === 1 ? asked[0] : { kind: "keep", changes: asked.reduce(drafted, []) });
  }

  // ---- pruning: first what goes, then the commit

  let pruning = null;

  async function countPruned(event) {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const asked = { kind: "prune", ...(fields.get("u") && { u: fields.get("u") }) };
    for (const name of ["min_count", "clones"]) if (fields.get(name)) asked[name] = Number(fields.get(name));
    $("error").hidden = $("prune-ready").hidden = true;
    $("prune-about").textContent = "";
    try {
      const found = await (await ask("/api/edit", { ...asked, dry_run: true, seen: state.graph.snapshot })).json();
      const count = (one, what) => `${one.toLocaleString("en-US")} ${what}${one === 1 ? "" : "s"}`, goes = found.edges_removed + (found.clones_removed ?? 0);
      $("prune-about").textContent = asked.clones === undefined
        ? `${count(found.edges_removed, "edge")} of ${found.private_edges_before.toLocaleString("en-US")} would become default (${percent(found.corpus_share)} of the text takes them)${found.note ? `: ${found.note}` : ""}.`
        : `${count(found.clones_removed, "clone")} would go; what they counted, the nodes count.`;
      pruning = asked;
      $("prune-ready").hidden = !goes;
    } catch (error) { complain(error); }
  }

  async function prune() {
    if (!await edit(pruning)) return;
    $("prune-ready").hidden = true;
    $("prune-about").textContent = "";
  }

  // ---- changes that are commits

  async function edit(asked) {
    if (state.running) return false;
    $("error").hidden = true;
    for (const button of document.querySelectorAll(".edits button, td.changes button")) button.disabled = true;
    let made = false;
    try {
      const text = state.draft.length && state.saved ? state.saved.text : plain();
      state.graph = await (await ask("/api/edit", { ...asked, seen: state.graph.snapshot })).json();
      made = true;
      if (asked.kind === "keep") state.draft = [];
      state.without = undefined;
      drawDraft();
      $("before-text").textContent = text;
      $("before").hidden = !text;
      await again();
    } catch (error) { complain(error); await load().catch(complain); }
    for (const button of document.querySelectorAll(".edits button, td.changes button")) button.disabled = false;
    drawGraph();
    return made;
  }

  // ---- start

  $("run").addEventListener("click", run);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); run(); }
  });
  $("temperature").addEventListener("input", () => { $("temperature-value").textContent = Number($("temperature").value).toFixed(1); });
  $("why").addEventListener("click", why);
  $("undo").addEventListener("click", () => {
    const last = state.graph.commits.find((commit) => commit.here);
    if (!last?.edit && !confirm(`Undo "${last?.message}"?`)) return;
    edit({ kind: "undo" });
  });
  $("frame").addEventListener("load", () => {
    const page = $("frame").contentDocument?.documentElement;
    if (page) $("frame").style.height = `${page.scrollHeight + 2}px`;
  });
  $("redo").addEventListener("click", () => edit({ kind: "redo" }));
  $("keep").addEventListener("click", () => edit({ kind: "keep", changes: state.draft }));
  $("discard").addEventListener("click", () => draft([]));
  $("nats").addEventListener("input", () => {
    $("nats-value").textContent = Number($("nats").value).toFixed(1);
    if (state.chosen >= 0) choose(state.chosen, false);
  });
  for (const kind of ["rename", "add"]) {
    $(kind).addEventListener("submit", async (event) => {
      event.preventDefault();
      const form = event.currentTarget, fields = new FormData(form);
      if (await edit({ kind, u: fields.get("u"), v: fields.get("v") })) form.reset();
    });
  }
  for (const form of ["prune-edges", "prune-clones"]) $(form).addEventListener("submit", countPruned);
  $("prune").addEventListener("click", prune);
  $("prune-not").addEventListener("click", () => { $("prune-ready").hidden = true; $("prune-about").textContent = ""; });
  $("scheme").addEventListener("click", switchScheme);
  $("prompt").focus();
  load().then(() => { document.documentElement.dataset.ready = "1"; }, complain);
})();
