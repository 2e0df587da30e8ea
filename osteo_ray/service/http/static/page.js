// The page of the service: screenings, worklist, study. Text goes in by textContent only; nothing is loaded from elsewhere.
"use strict";
const main = document.getElementById("main");
const KEY = "osteo-ray-token";
let stop = () => {};  // ends what the present view has going on

function el(tag, attrs = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) {
    if (v === null || v === undefined || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k === "at") Object.assign(e.style, v);
    else e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter(c => c !== null && c !== undefined && c !== false).map(c => c instanceof Node ? c : String(c)));
  return e;
}
function say(text) {
  if (!text) return;
  const p = el("p", {}, text);
  document.getElementById("said").append(p);
  setTimeout(() => p.remove(), 6000);
}
function headers(more = {}) {
  const t = sessionStorage.getItem(KEY);
  return t ? {Authorization: "Bearer " + t, ...more} : more;
}
async function ask(path, init = {}) {
  const answer = await fetch(path, {...init, headers: headers(init.headers)});
  const m = answer.headers.get("X-Model");
  if (m) document.getElementById("model").textContent = "model " + m;
  if (answer.ok) return answer;
  if (answer.status === 401) {
    const had = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    signIn();
    throw new Error(had ? "the token is not valid" : "");
  }
  const p = await answer.json().catch(() => ({detail: answer.statusText}));
  throw new Error(p.detail + (p.remedy ? ". " + p.remedy : ""));
}
const json = async (path, init) => (await ask(path, init)).json();
const send = (path, body) => json(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
const percent = p => p === null ? "–" : p > 0 && p < .01 ? "< 1 %" : p > .99 && p < 1 ? "> 99 %" : Math.round(100 * p) + " %";
function time(s) { return s === null ? "" : s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min" : (s / 3600).toFixed(1) + " h"; }
function show(title, ...parts) { document.title = title + " · osteo-ray"; main.replaceChildren(...parts); main.focus({preventScroll: true}); scrollTo(0, 0); }
function field(label, input, cls) { return el("div", {class: cls}, el("label", {for: input.id}, label), input); }
function table(heads, rows) {
  return el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Table"}, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map(h => el("th", {scope: "col", class: h[1]}, h[0])))), el("tbody", {}, ...rows)));
}

function signIn() {
  stop();
  const input = el("input", {id: "token", type: "password", autocomplete: "off", required: true});
  const form = el("form", {onsubmit: async e => { e.preventDefault(); sessionStorage.setItem(KEY, input.value.trim()); await route(); }},
    field("Token", input, "wide"), el("button", {class: "main"}, "Enter"));
  show("Token", el("section", {}, el("h1", {}, "A token is needed"), el("p", {class: "muted small"}, "It stays in this tab and is forgotten when the tab is closed."), form));
  input.focus();
}

// ---- screenings

async function home() {
  const [places, list, me] = await Promise.all([json("/v1/places"), json("/v1/screenings"), json("/v1/me")]);
  const known = [...places.roots, ...places.buckets, ...places.dicomweb.map(d => "dicomweb+" + d)];
  const archive = el("input", {id: "archive", required: true, list: "places", value: known[0] || "", spellcheck: "false"});
  const records = el("input", {id: "records", spellcheck: "false", placeholder: places.records[0] ? places.records[0] + "/…" : ""});
  const strict = el("select", {id: "policy"}, el("option", {value: ""}, "as configured"), el("option", {value: "lenient"}, "lenient"), el("option", {value: "strict"}, "strict"));
  const form = el("form", {onsubmit: async e => {
    e.preventDefault();
    try {
      const s = await send("/v1/screenings", {archive: archive.value.trim(), records: records.value.trim() || null, options: {gate_policy: strict.value || null}});
      location.hash = "#/s/" + s.id;
    } catch (x) { say(x.message); }
  }}, field("Archive: folder, zip, bucket or DICOMweb", archive, "wide"), field("Records (may be left empty)", records, "wide"),
    field("Quality checks", strict), el("datalist", {id: "places"}, ...known.map(k => el("option", {value: k}))), el("button", {class: "main"}, "Screen"));
  const rows = list.items.map(s => el("tr", {}, el("td", {class: "nowrap"}, el("a", {href: "#/s/" + s.id}, s.created.replace("T", " ").slice(0, 16))),
    el("td", {}, s.state.toLowerCase()), el("td", {class: "mono"}, s.archive), el("td", {class: "r"}, s.total === null ? "" : `${s.done} of ${s.total}`), el("td", {class: "opt"}, s.by)));
  show("Screenings",
    me.role === "read" ? "" : el("section", {}, el("h1", {}, "Screen an archive"), form),
    el("section", {}, el("h2", {}, "Screenings"), rows.length ? table([["Started"], ["State"], ["Archive"], ["Scored", "r"], ["By", "opt"]], rows) : el("p", {class: "muted"}, "None yet.")));
}

async function screeningPage(id) {
  const status = el("section", {"aria-live": "off"}), list = el("div");
  show("Screening", status, list);
  let last = null;
  const draw = s => {
    const over = ["DONE", "FAILED", "CANCELLED"].includes(s.state);
    status.replaceChildren(el("h1", {}, "Screening ", el("span", {class: "mono"}, s.id)),
      el("p", {}, el("strong", {}, s.state.toLowerCase()), over ? "" : ", " + s.phase, s.eta_s ? `, about ${time(s.eta_s)} left` : "", s.attempt > 1 ? `, attempt ${s.attempt}` : ""),
      s.total === null ? (over ? "" : el("progress", {"aria-label": "Indexing"})) : el("progress", {max: s.total || 1, value: s.total ? s.done : 1, "aria-label": `${s.done} of ${s.total} series scored`}),
      el("p", {class: "small"}, s.series === null ? "" : `${s.series} series indexed, ${s.done} of ${s.total} scored. `, Object.entries(s.counts).map(([k, n]) => `${k} ${n}`).join(", ")),
      s.error ? el("p", {class: "bad"}, s.error) : "",
      el("dl", {}, el("dt", {}, "Archive"), el("dd", {class: "mono"}, s.archive), el("dt", {}, "Records"), el("dd", {class: "mono"}, s.records || "none"), el("dt", {}, "Submitted"), el("dd", {}, `${s.created.replace("T", " ")} by ${s.by}`)),
      over ? "" : el("button", {type: "button", onclick: async () => { try { await ask("/v1/screenings/" + id, {method: "DELETE"}); } catch (x) { say(x.message); } }}, "Cancel"));
    if (!last || last.done !== s.done || last.state !== s.state) { if (s.series !== null && (!last || over || s.done >= 1.2 * last.done)) { last = s; refresh(); } }
  };
  const f = filters(() => refresh());
  const refresh = async () => {
    const offset = f.offset();
    try {
      const w = await json(`/v1/screenings/${id}/worklist?limit=50&offset=${offset}&${f.query()}`);
      list.replaceChildren(el("section", {}, el("h2", {}, `Worklist: ${w.total} series` + (w.partial ? " so far" : "")), f.form, worklist(id, w), f.pages(w.total)));
    } catch (x) { say(x.message); }
  };
  draw(await json("/v1/screenings/" + id));
  await follow(id, draw);
}

async function follow(id, draw) {
  const abort = new AbortController();
  let live = true;
  stop = () => { live = false; abort.abort(); };
  while (live) {
    try {
      const answer = await ask(`/v1/screenings/${id}/events`, {signal: abort.signal});
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const {value, done} = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const e of events) {
          const data = e.split("\n").find(l => l.startsWith("data: "));
          if (!data) continue;
          const s = JSON.parse(data.slice(6));
          draw(s);
          if (["DONE", "FAILED", "CANCELLED"].includes(s.state)) live = false;
        }
      }
    } catch (x) { if (live) await new Promise(r => setTimeout(r, 2000)); }
  }
}

function filters(changed) {
  let at = 0;
  const pick = (id, label, options) => field(label, el("select", {id, onchange: () => { at = 0; changed(); }}, el("option", {value: ""}, "all"), ...options.map(([v, t]) => el("option", {value: v}, t))));
  const age = (id, label) => field(label, el("input", {id, type: "number", min: 0, max: 150, onchange: () => { at = 0; changed(); }}), "n");
  const form = el("form", {onsubmit: e => e.preventDefault(), "aria-label": "Filters"},
    pick("state", "State", ["SCORED", "SCORED_WARN", "ABSTAINED", "EXCLUDED", "QUARANTINED", "ERROR"].map(s => [s, s.toLowerCase().replace("_", ", ").replace("warn", "with warning")])),
    age("age_min", "Age from"), age("age_max", "to"), pick("sex", "Sex", [["F", "female"], ["M", "male"]]),
    pick("modality", "Rests on", [["demographics", "demographics"], ["labs", "labs"], ["ct", "CT"]]), pick("judged", "Feedback", [["true", "given"], ["false", "not yet"]]));
  return {
    form, offset: () => at,
    query: () => new URLSearchParams([...form.elements].filter(i => i.value).map(i => [i.id, i.value])).toString(),
    pages: total => el("p", {class: "tools"}, el("button", {type: "button", disabled: at === 0, onclick: () => { at = Math.max(0, at - 50); changed(); }}, "Previous"),
      el("button", {type: "button", disabled: at + 50 >= total, onclick: () => { at += 50; changed(); }}, "Next"), el("span", {class: "muted small"}, total ? `${at + 1} to ${Math.min(at + 50, total)} of ${total}` : "none")),
  };
}
function worklist(id, w) {
  const rows = w.items.map(r => el("tr", {},
    el("td", {class: "r"}, r.rank === null ? "" : r.rank),
    el("td", {class: "mono nowrap"}, el("a", {href: `#/s/${id}/${r.row_key}`}, (r.patient_key || "unknown").slice(0, 12))),
    el("td", {class: "r nowrap"}, el("strong", {}, percent(r.risk_prob))),
    el("td", {class: "nowrap muted opt"}, r.risk_low === null ? "" : `${percent(r.risk_low)} to ${percent(r.risk_high)}`),
    el("td", {class: r.risk_class === "high" ? "hi nowrap" : "nowrap"}, r.risk_class === "high" ? "▲ high" : r.risk_class === "low" ? "▽ low" : r.code),
    el("td", {class: "r"}, r.age_y === null ? "–" : Math.round(r.age_y)), el("td", {}, r.sex || "–"),
    el("td", {class: "small opt"}, r.modalities.join(", ")), el("td", {class: "small opt"}, (r.suppressed ? r.suppressed + ": suppressed. " : "") + (r.state === "SCORED" ? "" : r.state === "SCORED_WARN" ? r.message || r.code : r.state.toLowerCase())),
    el("td", {class: "small"}, r.feedback.map(f => (f.verdict === "accept" ? "✓ " : "✕ ") + f.by).join(", "))));
  return table([["Rank", "r"], ["Patient"], ["Risk", "r"], ["Interval", "opt"], ["Class or code"], ["Age", "r"], ["Sex"], ["Rests on", "opt"], ["Note", "opt"], ["Feedback"]], rows);
}

// ---- one study

async function studyPage(id, key) {
  const at = `/v1/screenings/${id}/studies/${key}`;
  const s = await json(at), p = s.page, r = p.risk;
  const parts = [el("p", {}, el("a", {href: "#/s/" + id}, "Back to the worklist"))];
  parts.push(el("section", {}, el("h1", {}, "Patient ", el("span", {class: "mono"}, p.patient)),
    el("p", {class: p.tone}, p.meaning, el("span", {class: "muted small"}, ` ${p.state}, ${p.code}`)), p.message ? el("p", {}, p.message) : "",
    el("p", {class: "small muted"}, p.facts.map(f => f.join(" ")).join(" · ")),
    r ? el("div", {class: "two"}, el("div", {}, el("div", {class: "risk"}, r.value), el("p", {}, "interval " + r.interval), el("p", {class: r.high ? "hi" : ""}, (r.high ? "▲ " : "▽ ") + r.verdict), el("p", {class: "small muted"}, r.operating_point)), scale(r)) : ""));
  if (s.readable && s.slices_total) parts.push(viewer(at, s));
  if (p.groups.length) parts.push(el("section", {}, el("h2", {}, "What moved the score ", el("span", {class: "muted small"}, `SHAP in log-odds; base ${p.shap_base}; left lowers, right raises`)), shap(p)));
  if (p.gates.length) parts.push(el("section", {}, el("h2", {}, "Quality checks"), table([["Verdict"], ["Check"], ["Found"], ["Allowed"]],
    p.gates.map(([mark, word, tone, gate, value, threshold]) => el("tr", {}, el("td", {class: tone}, mark + " " + word), el("th", {scope: "row", class: "mono"}, gate), el("td", {}, value), el("td", {}, threshold))))));
  parts.push(feedbackForm(at, s));
  parts.push(el("section", {}, el("h2", {}, "Provenance"), el("dl", {}, ...p.provenance.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {class: "mono"}, v)]))));
  show("Study", ...parts);
}
function scale(r) {
  const left = x => ({left: x + "%"});
  return el("div", {class: "scale", role: "img", "aria-label": `Risk ${r.value}, interval ${r.interval}, operating point ${r.threshold}`}, el("i", {class: "track"}),
    r.low_at === null ? "" : el("i", {class: "band", at: {left: r.low_at + "%", width: (r.high_at - r.low_at) + "%"}}),
    r.threshold_at === null ? "" : el("i", {class: "cut", at: left(r.threshold_at)}), el("i", {class: "dot", at: left(r.at)}), ...[0, 50, 100].map(x => el("span", {at: left(x)}, x + " %")));
}
function shap(p) {
  const bar = b => el("div", {class: "track2"}, el("i", {class: b.raises ? "up" : "", at: {left: b.left + "%", width: b.width + "%"}}));
  const row = (b, cls) => el("tr", {class: cls}, el("th", {scope: "row"}, b.label), el("td", {class: "opt nowrap"}, b.value), el("td", {}, bar(b)), el("td", {class: "r nowrap"}, b.shap));
  return el("table", {class: "shap"}, el("tbody", {}, ...p.groups.flatMap(g => [row(g.total, "g"), ...(g.bars.length > 1 || g.bars[0].value ? g.bars.map(b => row(b)) : [])])));
}
const WINDOWS = [["Bone", 350, 1600], ["Trabecular", 150, 600], ["Soft tissue", 50, 400], ["Lung", -600, 1500]];
function viewer(at, s) {
  const chosen = [...s.result.selected].sort((a, b) => b.z_mm - a.z_mm);
  const canvas = el("canvas", {tabindex: "0", role: "img", "aria-label": "Axial slice; arrow keys scroll, brackets go to chosen slices"});
  const words = el("p", {class: "small", "aria-live": "polite"}), seen = new Map();
  let index = chosen.length ? chosen[0].index : s.slices_total >> 1, level = 350, width = 1600, now = null, asked = 0;
  const slider = el("input", {type: "range", id: "slice", min: 0, max: s.slices_total - 1, value: index, oninput: () => go(+slider.value)});
  const lev = el("input", {type: "range", id: "level", min: -1000, max: 1500, step: 10, value: level, oninput: () => { level = +lev.value; paint(); }});
  const wid = el("input", {type: "range", id: "width", min: 50, max: 4000, step: 10, value: width, oninput: () => { width = +wid.value; paint(); }});
  const marks = s.page.slices.filter(x => x.at !== null);
  const line = el("i", {class: "now"});
  const sag = s.page.overview ? el("div", {class: "sag"}, el("img", {src: s.page.overview.uri, alt: "Sagittal overview; lines are the chosen slices"}),
    ...marks.map(m => el("i", {at: {top: m.at + "%"}})), line, ...marks.map(m => el("b", {at: {top: m.label_at + "%"}}, m.number))) : "";
  const place = () => {  // between the chosen slices' known places, by slice number
    const known = chosen.map((c, i) => [c.index, s.page.slices[i].at]).filter(k => k[1] !== null).sort((a, b) => a[0] - b[0]);
    if (known.length < 2) return null;
    const [a, b] = [known[0], known[known.length - 1]];
    return a[1] + (b[1] - a[1]) * (index - a[0]) / ((b[0] - a[0]) || 1);
  };
  function paint() {
    if (!now) return;
    const [rows, cols] = now.shape, ctx = canvas.getContext("2d"), im = new ImageData(cols, rows), low = level - width / 2;
    for (let i = 0; i < rows * cols; i++) { const v = 255 * (now.hu[i] - low) / width; im.data[4 * i] = im.data[4 * i + 1] = im.data[4 * i + 2] = v; im.data[4 * i + 3] = 255; }
    canvas.width = cols; canvas.height = rows;
    canvas.style.aspectRatio = `${cols * now.mm[1]} / ${rows * now.mm[0]}`;
    ctx.putImageData(im, 0, 0);
    const c = chosen.findIndex(x => x.index === index);
    words.textContent = `Slice ${index + 1} of ${s.slices_total}, z ${now.z.toFixed(1)} mm` + (c < 0 ? "" : `; chosen slice ${c + 1}, weight ${percent(chosen[c].weight)}`) + `. Level ${level}, width ${width} HU.`;
  }
  async function go(i) {
    index = Math.min(Math.max(i, 0), s.slices_total - 1);
    slider.value = index;
    const top = place();
    line.hidden = top === null || top < 0 || top > 100;
    if (top !== null) line.style.top = top + "%";
    for (const b of buttons.children) b.setAttribute("aria-pressed", String(+b.value === index));
    const mine = ++asked;
    try {
      if (!seen.has(index)) {
        const want = index, a = await ask(`${at}/slices/${want}`);
        seen.set(want, {hu: new Int16Array(await a.arrayBuffer()), shape: [+a.headers.get("X-Rows"), +a.headers.get("X-Cols")], mm: a.headers.get("X-Spacing-Mm").split(" ").map(Number), z: +a.headers.get("X-Z-Mm")});
        if (seen.size > 40) seen.delete(seen.keys().next().value);
      }
      if (mine === asked) { now = seen.get(index); paint(); }
    } catch (x) { say(x.message); }
  }
  const hop = d => { const order = chosen.map(c => c.index).sort((a, b) => a - b); const next = d > 0 ? order.find(i => i > index) : order.reverse().find(i => i < index); if (next !== undefined) go(next); };
  canvas.addEventListener("keydown", e => {
    const step = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10}[e.key];
    if (step) { e.preventDefault(); go(index + step); }
    if (e.key === "]") hop(1);
    if (e.key === "[") hop(-1);
  });
  canvas.addEventListener("wheel", e => { e.preventDefault(); go(index - Math.sign(e.deltaY)); }, {passive: false});
  const buttons = el("div", {class: "tools", role: "group", "aria-label": "Chosen slices"}, ...chosen.map((c, i) => el("button", {type: "button", value: c.index, onclick: () => go(c.index)}, `Chosen ${i + 1} (${percent(c.weight)})`)));
  const presets = el("div", {class: "tools", role: "group", "aria-label": "Windows"}, ...WINDOWS.map(([n, l, w]) => el("button", {type: "button", onclick: () => { level = l; width = w; lev.value = l; wid.value = w; paint(); }}, n)));
  go(index);
  return el("section", {}, el("h2", {}, "Chosen slices"), el("div", {class: "viewer"}, sag, el("div", {}, buttons, canvas, words, field("Slice, foot to head", slider), presets,
    el("div", {class: "two-in"}, field("Level (HU)", lev), field("Width (HU)", wid)), el("p", {class: "muted small"}, "Keys on the picture: arrows scroll, [ and ] go to the chosen slices. Left of the picture is the patient's right."))));
}
function feedbackForm(at, s) {
  const note = el("input", {id: "note", maxlength: 500, placeholder: "no patient identifiers"}), given = el("p", {class: "small"});
  const draw = list => { given.textContent = list.map(f => `${f.verdict}ed by ${f.by}${f.note ? ": " + f.note : ""}`).join("; "); };
  draw(s.feedback);
  const judge = verdict => async () => {
    try { const f = await send(at + "/feedback", {verdict, note: note.value}); draw([f]); say("kept: " + verdict); } catch (x) { say(x.message); }
  };
  return el("section", {}, el("h2", {}, "Your judgement"), el("form", {onsubmit: e => e.preventDefault()}, field("Note", note, "wide"),
    el("button", {type: "button", onclick: judge("accept")}, "✓ Accept"), el("button", {type: "button", onclick: judge("reject")}, "✕ Reject")), given);
}

async function route() {
  stop(); stop = () => {};
  try {
    const me = await json("/v1/me");
    document.getElementById("who").textContent = `${me.name} (${me.role})`;
    document.getElementById("leave").hidden = !sessionStorage.getItem(KEY);
    const [, kind, id, key] = location.hash.split("/");
    if (kind === "s" && key) await studyPage(id, key);
    else if (kind === "s" && id) await screeningPage(id);
    else await home();
  } catch (x) { say(x.message); }
}
document.getElementById("leave").addEventListener("click", () => { sessionStorage.removeItem(KEY); signIn(); });
addEventListener("hashchange", route);
route();
