// The page of the service: screenings, worklist, study. Text goes in by textContent only; nothing is loaded from elsewhere.
"use strict";
const main = document.getElementById("main");
const KEY = "osteo-ray-token";
const LANGUAGE = "osteo-ray-language";
let stop = () => {};  // ends what the present view has going on
let texts = {}, language = "en", languages = {};  // the catalogue of messages, in one language

function w(key, values = {}) { return texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]); }
const has = key => Object.hasOwn(texts, key);
async function learn(wanted) {
  const answer = await fetch("/words" + (wanted ? "?lang=" + encodeURIComponent(wanted) : ""));
  const found = await answer.json();
  ({texts, language, languages} = found);
  document.documentElement.lang = language;
  for (const [id, key] of [["skip", "page.skip"], ["language-label", "page.language"], ["leave", "page.forget"], ["notice", "notice"]]) document.getElementById(id).textContent = w(key);
  const choice = document.getElementById("language");
  choice.replaceChildren(...Object.entries(languages).map(([tag, name]) => el("option", {value: tag, lang: tag, selected: tag === language}, name)));
}

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
  if (m) document.getElementById("model").textContent = w("page.model", {name: m});
  if (answer.ok) return answer;
  if (answer.status === 401) {
    const had = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    signIn();
    throw new Error(had ? w("page.token_bad") : "");
  }
  const p = await answer.json().catch(() => ({detail: answer.statusText}));
  const error = new Error(p.detail + (p.remedy ? ". " + p.remedy : ""));
  error.status = answer.status;
  throw error;
}
const json = async (path, init) => (await ask(path, init)).json();
const send = (path, body) => json(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
const percent = p => p === null ? "–" : p > 0 && p < .01 ? "< 1 %" : p > .99 && p < 1 ? "> 99 %" : Math.round(100 * p) + " %";
function time(s) { return s < 90 ? w("page.seconds", {n: Math.round(s)}) : s < 5400 ? w("page.minutes", {n: Math.round(s / 60)}) : w("page.hours", {n: (s / 3600).toFixed(1)}); }
const fully = path => path + (path.includes("?") ? "&" : "?") + "lang=" + language;
function show(title, ...parts) { document.title = title + " · osteo-ray"; main.replaceChildren(...parts); main.focus({preventScroll: true}); scrollTo(0, 0); }
function field(label, input, cls) { return el("div", {class: cls}, el("label", {for: input.id}, label), input); }
function table(heads, rows) {
  return el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": w("page.table")}, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map(h => el("th", {scope: "col", class: h[1]}, h[0])))), el("tbody", {}, ...rows)));
}

function signIn() {
  stop();
  const input = el("input", {id: "token", type: "password", autocomplete: "off", required: true});
  const form = el("form", {onsubmit: async e => { e.preventDefault(); sessionStorage.setItem(KEY, input.value.trim()); await route(); }},
    field(w("page.token"), input, "wide"), el("button", {class: "main"}, w("page.enter")));
  show(w("page.token"), el("section", {}, el("h1", {}, w("page.token_title")), el("p", {class: "muted small"}, w("page.token_note")), form));
  input.focus();
}

// ---- screenings

async function home() {
  const [places, list, me] = await Promise.all([json("/v1/places"), json("/v1/screenings"), json("/v1/me")]);
  const known = [...places.roots, ...places.buckets, ...places.dicomweb.map(d => "dicomweb+" + d)];
  const archive = el("input", {id: "archive", required: true, list: "places", value: known[0] || "", spellcheck: "false"});
  const records = el("input", {id: "records", spellcheck: "false", placeholder: places.records[0] ? places.records[0] + "/…" : ""});
  const strict = el("select", {id: "policy"}, el("option", {value: ""}, w("page.policy_config")), el("option", {value: "lenient"}, w("page.policy_lenient")), el("option", {value: "strict"}, w("page.policy_strict")));
  const form = el("form", {onsubmit: async e => {
    e.preventDefault();
    try {
      const s = await send("/v1/screenings", {archive: archive.value.trim(), records: records.value.trim() || null, options: {gate_policy: strict.value || null}});
      location.hash = "#/s/" + s.id;
    } catch (x) { say(x.message); }
  }}, field(w("page.archive"), archive, "wide"), field(w("page.records"), records, "wide"),
    field(w("page.policy"), strict), el("datalist", {id: "places"}, ...known.map(k => el("option", {value: k}))), el("button", {class: "main"}, w("page.screen")));
  const rows = list.items.map(s => el("tr", {}, el("td", {class: "nowrap"}, el("a", {href: "#/s/" + s.id}, s.created.replace("T", " ").slice(0, 16))),
    el("td", {}, w("page.run." + s.state)), el("td", {class: "mono"}, s.archive), el("td", {class: "r"}, s.total === null ? "" : w("of", {n: s.done, total: s.total})), el("td", {class: "opt"}, s.by)));
  const reads = me.role === "read", heads = [[w("page.started")], [w("page.state")], [w("page.archive_head")], [w("page.scored"), "r"], [w("page.by"), "opt"]];
  show(w("page.screenings"),
    reads ? "" : el("section", {}, el("h1", {}, w("page.screen_title")), form),
    el("section", {}, el(reads ? "h1" : "h2", {}, w("page.screenings")), rows.length ? table(heads, rows) : el("p", {class: "muted"}, w("page.none_yet"))));
}

async function screeningPage(id) {
  const status = el("section", {"aria-live": "off"}), list = el("div");
  let last = null;
  const draw = s => {
    const over = ["DONE", "FAILED", "CANCELLED"].includes(s.state);
    const running = s.state === "RUNNING", left = s.eta_s === null ? w("page.eta_unknown") : w("page.eta", {time: time(s.eta_s)});
    status.replaceChildren(el("h1", {}, w("page.screening") + " ", el("span", {class: "mono"}, s.id)),
      el("p", {}, [w("page.run." + s.state), over ? "" : w("page.phase." + s.phase), running ? left : "", s.attempt > 1 ? w("page.attempt", {n: s.attempt}) : ""].filter(Boolean).join(" · ")),
      s.total === null ? (over ? "" : el("progress", {"aria-label": w("page.indexing")})) : el("progress", {max: s.total || 1, value: s.total ? s.done : 1, "aria-label": w("page.progress", {n: s.done, total: s.total})}),
      el("p", {class: "small"}, s.series === null ? "" : [w("page.of_indexed", {n: s.series}), w("page.progress", {n: s.done, total: s.total}), ...Object.entries(s.counts).map(([k, n]) => `${w("state." + k)}: ${n}`)].join(" · ")),
      s.error ? el("p", {class: "bad"}, s.error) : "",
      el("dl", {}, el("dt", {}, w("page.archive_head")), el("dd", {class: "mono"}, s.archive), el("dt", {}, w("page.records_head")), el("dd", {class: "mono"}, s.records || w("page.none")), el("dt", {}, w("page.submitted")), el("dd", {}, w("page.submitted_by", {time: s.created.replace("T", " "), name: s.by}))),
      over ? "" : el("button", {type: "button", onclick: async () => { try { await ask("/v1/screenings/" + id, {method: "DELETE"}); } catch (x) { say(x.message); } }}, w("page.cancel")));
    if (!last || last.done !== s.done || last.state !== s.state) { if (s.series !== null && (!last || over || s.done >= 1.2 * last.done)) { last = s; refresh(); } }
  };
  const f = filters(() => refresh());
  const refresh = async () => {
    const offset = f.offset();
    try {
      const found = await json(fully(`/v1/screenings/${id}/worklist?limit=50&offset=${offset}&${f.query()}`));
      list.replaceChildren(el("section", {}, el("h2", {}, w(found.partial ? "page.worklist_partial" : "page.worklist", {n: found.total})), f.form, worklist(id, found), f.pages(found.total)));
    } catch (x) { say(x.message); }
  };
  const first = await json("/v1/screenings/" + id);
  show(w("page.screening"), status, list);
  draw(first);
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
  const pick = (id, label, options) => field(label, el("select", {id, onchange: () => { at = 0; changed(); }}, el("option", {value: ""}, w("page.all")), ...options.map(([v, t]) => el("option", {value: v}, t))));
  const age = (id, label) => field(label, el("input", {id, type: "number", min: 0, max: 150, onchange: () => { at = 0; changed(); }}), "n");
  const form = el("form", {onsubmit: e => e.preventDefault(), "aria-label": w("page.filters")},
    pick("state", w("page.state"), ["SCORED", "SCORED_WARN", "ABSTAINED", "EXCLUDED", "QUARANTINED", "ERROR"].map(s => [s, w("state." + s)])),
    age("age_min", w("page.age_from")), age("age_max", w("page.age_to")), pick("sex", w("fact.sex"), ["F", "M"].map(s => [s, w("sex." + s)])),
    pick("modality", w("page.rests_on"), ["demographics", "labs", "ct"].map(m => [m, w("short." + m)])), pick("judged", w("page.feedback"), [["true", w("page.given")], ["false", w("page.not_yet")]]));
  return {
    form, offset: () => at,
    query: () => new URLSearchParams([...form.elements].filter(i => i.value).map(i => [i.id, i.value])).toString(),
    pages: total => el("p", {class: "tools"}, el("button", {type: "button", disabled: at === 0, onclick: () => { at = Math.max(0, at - 50); changed(); }}, w("page.previous")),
      el("button", {type: "button", disabled: at + 50 >= total, onclick: () => { at += 50; changed(); }}, w("page.next")), el("span", {class: "muted small"}, total ? w("page.range", {from: at + 1, to: Math.min(at + 50, total), total}) : w("page.none"))),
  };
}
function worklist(id, found) {
  const named = found.items.some(r => r.identity);
  const rows = found.items.map(r => el("tr", {},
    el("td", {class: "r"}, r.rank === null ? "" : r.rank),
    el("td", {class: "nowrap"}, el("a", {class: r.identity ? "" : "mono", href: `#/s/${id}/${r.row_key}`}, r.identity && r.identity.name || (r.patient_key || w("page.patient_unknown")).slice(0, 12))),
    ...(named ? [el("td", {class: "nowrap"}, r.identity ? r.identity.number : ""), el("td", {class: "nowrap opt"}, r.identity ? r.identity.accession : "")] : []),
    el("td", {class: "r nowrap"}, el("strong", {}, percent(r.risk_prob))),
    el("td", {class: "nowrap muted opt"}, r.risk_low === null ? "" : w("run.interval_cell", {low: percent(r.risk_low), high: percent(r.risk_high)})),
    el("td", {class: r.risk_class === "high" ? "hi nowrap" : r.risk_class === "low" ? "nowrap" : "small"}, r.risk_class === "high" ? "▲ " + w("class.high") : r.risk_class === "low" ? "▽ " + w("class.low") : r.why),
    el("td", {class: "r"}, r.age_y === null ? "–" : Math.round(r.age_y)), el("td", {}, r.sex ? (has("sex." + r.sex) ? w("sex." + r.sex) : r.sex) : "–"),
    el("td", {class: "small opt"}, r.modalities.map(m => w("short." + m)).join(", ")), el("td", {class: "small opt"}, r.note),
    el("td", {class: "small"}, r.feedback.map(f => (f.verdict === "accept" ? "✓ " : "✕ ") + f.by).join(", "))));
  const who = named ? [[w("page.number")], [w("page.accession"), "opt"]] : [];
  return table([[w("run.rank"), "r"], [w("report.patient")], ...who, [w("risk.title"), "r"], [w("run.interval"), "opt"], [w("page.class")], [w("fact.age"), "r"], [w("fact.sex")], [w("page.rests_on"), "opt"], [w("run.note"), "opt"], [w("page.feedback")]], rows);
}

// ---- one study

async function studyPage(id, key) {
  const at = `/v1/screenings/${id}/studies/${key}`;
  const s = await json(fully(at)), p = s.page, r = p.risk;
  const parts = [el("p", {}, el("a", {href: "#/s/" + id}, w("page.back_worklist")))];
  const who = s.identity ? el("dl", {}, el("dt", {}, w("page.number")), el("dd", {}, s.identity.number), el("dt", {}, w("page.accession")), el("dd", {}, s.identity.accession)) : "";
  parts.push(el("section", {}, el("h1", {}, w("report.patient") + " ", s.identity && s.identity.name ? s.identity.name : el("span", {class: "mono"}, p.patient)), who,
    el("p", {class: p.tone}, el("strong", {}, p.meaning), p.why ? ". " + p.why : ""), p.detail ? el("p", {class: "small", lang: "en"}, p.detail) : "",
    p.viewer ? el("p", {}, el("a", {href: p.viewer, target: "_blank", rel: "noopener noreferrer"}, w("viewer.open"))) : "",
    p.next_step ? el("p", {class: "next"}, el("strong", {}, w("next.title")), el("br"), p.next_step) : "",
    el("p", {class: "small muted"}, p.facts.map(f => f.join(" ")).join(" · ")),
    r ? el("div", {class: "two"}, el("div", {}, el("div", {class: "risk"}, r.value), el("p", {}, r.interval), el("p", {class: r.high ? "hi" : ""}, (r.high ? "▲ " : "▽ ") + r.verdict), el("p", {class: "small muted"}, r.operating_point)), scale(r)) : ""));
  if (s.readable && s.slices_total) parts.push(viewer(at, s));
  if (p.density.levels.length || p.density.compared.length) parts.push(density(p.density));
  if (p.groups.length) parts.push(el("section", {}, el("h2", {}, w("shap.title") + " ", el("span", {class: "muted small"}, w("shap.note", {base: p.shap_base}))), shap(p)));
  if (p.checks.length) parts.push(el("section", {}, el("h2", {}, w("checks.title")), el("table", {class: "checks"},
    el("thead", {}, el("tr", {}, ...["verdict", "check", "found", "allowed"].map(h => el("th", {scope: "col"}, w("checks." + h))))),
    el("tbody", {}, ...p.checks.map(c => el("tr", {}, el("td", {class: c.tone}, c.mark + " " + c.verdict), el("th", {scope: "row", title: c.code}, c.name), el("td", {}, c.found), el("td", {class: "muted"}, c.allowed)))))));
  parts.push(feedbackForm(at, s));
  parts.push(el("section", {}, el("h2", {}, w("prov.title")), el("dl", {}, ...p.provenance.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {class: "mono"}, v)]))));
  show(w("page.study"), ...parts);
}
function density(d) {
  const heads = ["level", "hu_120", "range", "hu", "before", "slices", "spread"].map((h, i) => [w("density." + h), (i ? "r" : "") + (i > 3 ? " opt" : "")]);
  const rows = d.levels.map(v => el("tr", {}, el("th", {scope: "row"}, v.name), el("td", {class: "r"}, el("strong", {}, v.hu_120_kvp)), ...[v.range, v.hu].map(x => el("td", {class: "r"}, x)), ...[v.before, v.slices, v.spread].map(x => el("td", {class: "r opt"}, x))));
  return el("section", {}, el("h2", {}, w("density.title")), d.levels.length ? table(heads, rows) : "",
    el("dl", {}, ...d.compared.flatMap(([title, lines]) => [el("dt", {}, title), el("dd", {}, ...lines.map(l => el("p", {}, l)))])), ...d.notes.map(n => el("p", {class: "small muted"}, n)));
}
function scale(r) {
  const left = x => ({left: x + "%"});
  return el("div", {class: "scale", role: "img", "aria-label": r.spoken}, el("i", {class: "track"}),
    r.low_at === null ? "" : el("i", {class: "band", at: {left: r.low_at + "%", width: (r.high_at - r.low_at) + "%"}}),
    r.threshold_at === null ? "" : el("i", {class: "cut", at: left(r.threshold_at)}), el("i", {class: "dot", at: left(r.at)}), ...[0, 50, 100].map(x => el("span", {at: left(x)}, x + " %")));
}
function shap(p) {
  const bar = b => el("div", {class: "track2"}, el("i", {class: b.raises ? "up" : "", at: {left: b.left + "%", width: b.width + "%"}}));
  const row = (b, cls) => el("tr", {class: cls}, el("th", {scope: "row"}, b.label), el("td", {class: "opt nowrap"}, b.value), el("td", {}, bar(b)), el("td", {class: "r nowrap"}, b.shap));
  return el("table", {class: "shap"}, el("tbody", {}, ...p.groups.flatMap(g => [row(g.total, "g"), ...(g.bars.length > 1 || g.bars[0].value ? g.bars.map(b => row(b)) : [])])));
}
const CLOSE_UP_MM = 80, ZOOM = 4;  // side of the picture of one vertebra; its pixels for one of the slice
const WINDOWS = [["Bone", 350, 1600], ["Trabecular", 200, 700], ["Soft tissue", 50, 400], ["Lung", -600, 1500]];
function viewer(at, s) {
  const chosen = [...s.result.selected].sort((a, b) => b.z_mm - a.z_mm);
  const canvas = el("canvas", {tabindex: "0", role: "img", "aria-label": w("page.slice_alt")}), near = el("img", {alt: ""});
  const sides = () => ["R", "L"].map(side => el("span", {class: "side " + side, "aria-hidden": "true"}, side));
  const close = el("div", {class: "shot near"}, near, ...sides());
  const words = el("p", {class: "small", "aria-live": "polite"}), seen = new Map();
  let index = chosen.length ? chosen[0].index : s.slices_total >> 1, level = 200, width = 700, now = null, asked = 0;
  const slider = el("input", {type: "range", id: "slice", min: 0, max: s.slices_total - 1, value: index, oninput: () => go(+slider.value)});
  const lev = el("input", {type: "range", id: "level", min: -1000, max: 1500, step: 10, value: level, oninput: () => { level = +lev.value; paint(); }});
  const wid = el("input", {type: "range", id: "width", min: 50, max: 4000, step: 10, value: width, oninput: () => { width = +wid.value; paint(); }});
  const marks = s.page.slices.filter(x => x.at !== null);
  const line = el("i", {class: "now"});
  const sag = s.page.overview ? el("div", {class: "sag"}, el("img", {src: s.page.overview.uri, alt: w("page.overview_alt")}),
    ...marks.map(m => el("i", {at: {top: m.at + "%"}})), line, ...marks.map(m => el("b", {at: {top: m.label_at + "%"}}, m.mark))) : "";
  const place = () => {  // between the chosen slices' known places, by slice number
    const known = chosen.map((c, i) => [c.index, s.page.slices[i].at]).filter(k => k[1] !== null).sort((a, b) => a[0] - b[0]);
    if (known.length < 2) return null;
    const [a, b] = [known[0], known[known.length - 1]];
    return a[1] + (b[1] - a[1]) * (index - a[0]) / ((b[0] - a[0]) || 1);
  };
  function paint() {
    if (!now) return;
    const [rows, cols] = now.shape, im = new ImageData(cols, rows), low = level - width / 2;
    for (let i = 0; i < rows * cols; i++) { const v = 255 * (now.hu[i] - low) / width; im.data[4 * i] = im.data[4 * i + 1] = im.data[4 * i + 2] = v; im.data[4 * i + 3] = 255; }
    const c = chosen.findIndex(x => x.index === index), roi = c < 0 || chosen[c].roi_radius_mm === null ? null : chosen[c];
    canvas.style.aspectRatio = `${cols * now.mm[1]} / ${rows * now.mm[0]}`;
    draw(canvas, im, 0, 0, cols, rows, roi, 1);
    close.hidden = roi === null;
    if (roi) {  // as `reports.pictures.close_up` cuts it
      const [h, v] = [[cols, 1, roi.roi_col], [rows, 0, roi.roi_row]].map(([n, axis, at]) => {
        const k = Math.min(n, Math.max(1, Math.round(CLOSE_UP_MM / now.mm[axis])));
        return [Math.min(Math.max(Math.round(at - (k - 1) / 2), 0), n - k), k];
      });
      const cut = document.createElement("canvas");
      draw(cut, im, h[0], v[0], h[1], v[1], roi, ZOOM);
      near.src = cut.toDataURL();
      near.alt = w("slices.close_alt", {level: s.page.slices[c].level, n: c + 1});
    }
    words.textContent = [w("page.slice_words", {n: index + 1, total: s.slices_total, z: now.z.toFixed(1)}), c < 0 ? "" : w("page.slice_chosen", {n: c + 1, w: percent(chosen[c].weight)}), c < 0 ? "" : s.page.slices[c].level, c < 0 ? "" : s.page.slices[c].hu, w("page.window_words", {level, width})].filter(Boolean).join("; ");
  }
  function draw(on, im, left, top, cols, rows, roi, zoom) {  // a part of a slice, with the circle that was measured
    const part = document.createElement("canvas");
    part.width = cols; part.height = rows;
    part.getContext("2d").putImageData(im, -left, -top);
    on.width = cols * zoom; on.height = Math.round(rows * zoom * now.mm[0] / now.mm[1]);
    const ctx = on.getContext("2d");
    ctx.drawImage(part, 0, 0, on.width, on.height);
    if (!roi) return;
    const x = zoom, y = on.height / rows;
    ctx.strokeStyle = "#6fd0e6";
    ctx.lineWidth = on.width / (on.clientWidth || on.width / 1.5);  // about one pixel of the screen
    ctx.beginPath();
    ctx.ellipse(x * (roi.roi_col + .5 - left), y * (roi.roi_row + .5 - top), x * roi.roi_radius_mm / now.mm[1], y * roi.roi_radius_mm / now.mm[0], 0, 0, 2 * Math.PI);
    ctx.stroke();
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
  const buttons = el("div", {class: "tools", role: "group", "aria-label": w("slices.title")}, ...chosen.map((c, i) => el("button", {type: "button", value: c.index, onclick: () => go(c.index)}, w("page.chosen", {n: s.page.slices[i].mark, w: percent(c.weight)}))));
  const presets = el("div", {class: "tools", role: "group", "aria-label": w("page.windows")}, ...WINDOWS.map(([n, l, x]) => el("button", {type: "button", onclick: () => { level = l; width = x; lev.value = l; wid.value = x; paint(); }}, w("slices.preset." + n))));
  go(index);
  return el("section", {}, el("h2", {}, w("slices.title")), el("div", {class: "viewer"}, sag, el("div", {}, buttons, el("div", {class: "shots"}, el("div", {class: "shot"}, canvas, ...sides()), close), words, field(w("page.slider"), slider), presets,
    el("div", {class: "two-in"}, field(w("page.level_hu"), lev), field(w("page.width_hu"), wid)), el("p", {class: "muted small"}, w("page.keys")))));
}
function feedbackForm(at, s) {
  const note = el("input", {id: "note", maxlength: 500, placeholder: w("page.judge_hint")}), given = el("p", {class: "small"});
  const draw = list => { given.textContent = list.map(f => w(f.verdict === "accept" ? "page.accepted" : "page.rejected", {name: f.by}) + (f.note ? ": " + f.note : "")).join("; "); };
  draw(s.feedback);
  const judge = verdict => async () => {
    try { const f = await send(at + "/feedback", {verdict, note: note.value}); draw([f]); say(w("page.kept")); } catch (x) { say(x.message); }
  };
  return el("section", {}, el("h2", {}, w("page.judgement")), el("form", {onsubmit: e => e.preventDefault()}, field(w("page.judge_note"), note, "wide"),
    el("button", {type: "button", onclick: judge("accept")}, "✓ " + w("page.accept")), el("button", {type: "button", onclick: judge("reject")}, "✕ " + w("page.reject"))), given);
}

function failed(x) {
  if (!x.message) return;  // the form for a token is there instead
  show(w("page.error"), el("section", {role: "alert"}, el("h1", {}, w("page.error")), el("p", {class: "bad"}, x.status ? x.message : w("page.no_answer") + ": " + x.message),
    el("p", {}, el("a", {href: "#/"}, w("page.back_home")))));
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
  } catch (x) { failed(x); }
}
document.getElementById("leave").addEventListener("click", () => { sessionStorage.removeItem(KEY); signIn(); });
document.getElementById("language").addEventListener("change", async e => {
  sessionStorage.setItem(LANGUAGE, e.target.value);
  await learn(e.target.value);
  await route();
});
document.getElementById("skip").addEventListener("click", e => { e.preventDefault(); main.focus(); });  // its address is a view's place
addEventListener("hashchange", route);
learn(new URLSearchParams(location.search).get("lang") || sessionStorage.getItem(LANGUAGE)).then(route);
