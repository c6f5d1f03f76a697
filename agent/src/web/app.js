// The page of `exeat ui`. What it shows is chosen by confined programs in part: it becomes text
// (textContent), never markup, and never an address.
"use strict";

const byId = (id) => document.getElementById(id);
const MOST = 200;
// A question that has just come is not answered by a click that was meant for something else.
const STILL = 1000;

// Characters that act instead of showing are spelled out, as in the terminal.
const ACTS = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
function plain(value) {
  const text = String(value ?? "").replace(ACTS, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
  const all = Array.from(text);
  return all.length <= 160 ? text : all.slice(0, 110).join("") + " … " + all.slice(-30).join("") + ` (${all.length} characters)`;
}
function make(tag, text, ...classes) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  element.classList.add(...classes);
  return element;
}
const shown = (text) => make("bdi", plain(text));
function cell(...parts) {
  const td = make("td");
  td.append(...parts);
  return td;
}
const number = (n) => Number(n ?? 0).toLocaleString("en");
function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  for (n = Number(n ?? 0); n >= 999.95 && at < units.length - 1; at++) n /= 1000;
  return at === 0 ? `${n} B` : `${n.toFixed(1)} ${units[at]}`;
}
const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
const moment = (time) => new Date(time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

let key = null;
let show = "all";

function notice(text) {
  const box = byId("notice");
  box.textContent = text ? plain(text) : "";
  box.hidden = !text;
}
function state(text, kind) {
  const line = byId("state");
  line.textContent = plain(text);
  line.className = kind;
}

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  if (key) headers["x-exeat-key"] = key;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the page's server said ${response.status}`);
  return answer;
}

// ---- questions

const questions = new Map();

function subject(question) {
  return question.subject.kind === "name" ? question.subject.name : question.subject.address;
}
function breadths(question) {
  const all = [[{ kind: "this" }, "this destination"]];
  if (question.port) all.push([{ kind: "port", port: question.port }, `port ${question.port} of it`]);
  if (question.subject.kind === "name" && question.domain && question.domain !== subject(question)) {
    all.push([{ kind: "domain" }, `all of ${plain(question.domain)}`]);
  }
  return all;
}
const LASTS = [
  ["Once", { kind: "once" }],
  ["This run", { kind: "run" }],
  ["1 hour", { kind: "for", seconds: 3600 }],
  ["Always", { kind: "always" }],
];

function ask(question) {
  const known = questions.get(question.id);
  if (known) {
    known.question = question;
    known.waiting.textContent = waits(question);
    return;
  }
  const card = make("article", null, "question");
  card.dataset.question = question.id;
  const title = make("h3");
  title.append(shown(question.agent), " wants to reach ", shown(subject(question)));
  if (question.port) title.append(`, port ${question.port}`);
  const detail = make("p", null, "soft");
  const process = question.process;
  if (process) {
    // Without its file there is only the word that the program chose for itself.
    detail.append(process.exe ? "Program: " : "A program that calls itself ", shown(process.exe || process.comm));
    detail.append(` (process ${process.pid}). `);
  }
  const waiting = make("span", waits(question));
  const left = make("span", "", "left");
  detail.append(waiting, " ", left);
  const choice = make("label", "About: ");
  const about = make("select");
  const all = breadths(question);
  for (const [, words] of all) about.append(make("option", words));
  choice.append(about);
  const buttons = make("p", null, "buttons");
  buttons.append(make("span", "Allow: "));
  const sure = make("p", null, "buttons", "sure");
  sure.hidden = true;
  sure.append(make("span", "Deny: "));
  const answer = (ruling, lasts) => settle(card, question.id, { ruling, lasts, breadth: all[about.selectedIndex][0] });
  for (const [words, lasts] of LASTS) {
    if (lasts.kind === "run" && !question.run) continue;
    for (const [row, ruling] of [[buttons, "allow"], [sure, "deny"]]) {
      const button = make("button", words, ruling);
      button.type = "button";
      button.dataset.answer = `${ruling}-${lasts.kind}`;
      button.setAttribute("aria-label", `${ruling === "allow" ? "Allow" : "Deny"}: ${words}`);
      button.addEventListener("click", () => answer(ruling, lasts));
      row.append(button);
    }
  }
  const deny = make("button", "Deny …", "deny");
  deny.type = "button";
  deny.dataset.answer = "deny";
  deny.addEventListener("click", () => { sure.hidden = false; buttons.hidden = true; sure.querySelector("button").focus(); });
  buttons.append(deny);
  const back = make("button", "Back");
  back.type = "button";
  back.addEventListener("click", () => { sure.hidden = true; buttons.hidden = false; deny.focus(); });
  sure.append(back);
  card.append(title, detail, choice, buttons, sure, make("p", "", "error"));
  lock(card, true);
  setTimeout(() => lock(card, false), STILL);
  questions.set(question.id, { question, card, waiting, left });
  byId("questions").append(card);
  count();
}
function waits(question) {
  return question.waiting === 1 ? "1 connection waits." : `${number(question.waiting)} connections wait.`;
}
function lock(card, on) {
  for (const button of card.querySelectorAll("button")) button.disabled = on;
}
async function settle(card, question, choice) {
  lock(card, true);
  card.querySelector(".error").textContent = "";
  try {
    await post("/answer", { question, choice });
    settled({ question });
  } catch (error) {
    card.querySelector(".error").textContent = plain(error.message);
    lock(card, false);
  }
}
function settled(settlement) {
  const known = questions.get(settlement.question);
  if (!known) return;
  known.card.remove();
  questions.delete(settlement.question);
  count();
}
function count() {
  const n = questions.size;
  document.title = n ? `(${n}) Exeat` : "Exeat";
  byId("asking").hidden = n === 0 && !byId("asking-note").textContent;
  byId("asking").classList.toggle("waiting", n > 0);
}
setInterval(() => {
  for (const { question, left } of questions.values()) {
    const seconds = Math.max(0, Math.round((new Date(question.expires) - Date.now()) / 1000));
    left.textContent = `Denied in ${seconds} s if nobody answers.`;
  }
}, 500);

// ---- agents, walls

function status(all) {
  const agents = byId("agents");
  const walls = byId("walls");
  agents.replaceChildren();
  walls.replaceChildren();
  byId("health").textContent = "";
  if (!all) return;
  for (const agent of all.agents) {
    const row = make("tr");
    const words = [];
    if (agent.frozen) words.push(["frozen", "warn"]);
    if (agent.isolated) words.push(["cut off", "warn"]);
    if (agent.mode !== "enforce") words.push([agent.mode, "warn"]);
    if (!words.length) words.push(["enforced", "good"]);
    const what = cell();
    for (const [word, kind] of words) what.append(make("span", plain(word), "tag", kind));
    const of = (list) => (list || []).reduce((sum, one) => sum + one.processes, 0);
    const sum = (counts) => Object.values(counts || {}).reduce((a, b) => a + (typeof b === "object" ? sum(b) : b), 0);
    row.append(cell(shown(agent.name)), what);
    for (const text of [
      number(of(agent.runs) + of((agent.adopted || []).filter((one) => !one.run))),
      number(sum(agent.allowed)),
      number(sum(agent.blocked)),
      bytes(agent.sent_bytes),
    ]) row.append(make("td", text, "num"));
    agents.append(row);
  }
  if (!all.agents.length) agents.append(empty(6, "The policy has no agents."));
  const missing = all.enforcement.walls.filter((wall) => wall.state !== "up").map((wall) => [null, wall]);
  // What the machine does not have no agent has: said once.
  const ofMachine = new Set(missing.map(([, wall]) => wall.name));
  for (const agent of all.agents) {
    for (const wall of agent.walls || []) {
      if (wall.state !== "up" && !ofMachine.has(wall.name)) missing.push([agent.name, wall]);
    }
  }
  for (const [agent, wall] of missing) {
    const item = make("li");
    item.append(shown(wall.name), ` is ${wall.state}`);
    if (agent) item.append(" for ", shown(agent));
    if (wall.detail) item.append(": ", shown(wall.detail));
    walls.append(item);
  }
  const reasons = all.health.reasons || [];
  byId("health").textContent = reasons.length ? reasons.map(plain).join(" · ") : "Everything that should hold holds.";
  byId("health").className = reasons.length ? "warn" : "good";
  const good = all.enforcement.active && all.health.state === "ok";
  state(good ? "Enforcing" : all.enforcement.active ? "Enforcing, but degraded" : "NOT enforcing", good ? "good" : "bad");
}
function empty(columns, text) {
  const row = make("tr");
  const only = make("td", text, "none");
  only.colSpan = columns;
  row.append(only);
  return row;
}

// ---- records

function destination(flow) {
  if (flow.dns) return [shown(flow.dns.name), ` ${plain(flow.dns.qtype)}`];
  const name = flow.server_name || (flow.names || [])[0];
  const parts = [];
  if (name) parts.push(shown(name), " ");
  if (flow.dest) parts.push(make("span", `${flow.dest.ip}${flow.dest.port ? " port " + flow.dest.port : ""}`, name ? "soft" : "plain"));
  return parts.length ? parts : [plain(flow.hook)];
}
function line(record) {
  const row = make("tr");
  if (record.type === "lost") {
    row.append(cell(""), cell(""), make("td", "records lost", "warn"), cell(number(record.records)), cell(""), cell(plain(record.cause)));
    row.dataset.kind = "incident";
    return row;
  }
  row.append(make("td", clock(record.time), "when"), cell(shown(record.agent)));
  if (record.type === "incident") {
    row.dataset.kind = "incident";
    const what = make("td", null, "warn");
    what.append(plain(record.kind).replaceAll("_", " "));
    const message = cell(shown(record.message));
    message.colSpan = 3;
    row.append(what, message);
    return row;
  }
  const refused = record.verdict !== "allow";
  row.dataset.kind = refused ? "refused" : "allowed";
  const words = { deny: "refused", would_deny: "let through, only watched", allow: "let out" };
  row.append(
    make("td", words[record.verdict] || plain(record.verdict), refused ? "deny" : "allow"),
    cell(...destination(record)),
    cell(record.process ? shown(record.process.comm) : ""),
    cell(record.reason ? plain(record.reason).replaceAll("_", " ") : ""),
  );
  return row;
}
function fits(row) {
  row.hidden = !(show === "all" || row.dataset.kind === show);
}
function record(one) {
  const rows = byId("records");
  rows.querySelector(".none")?.parentElement.remove();
  const row = line(one);
  fits(row);
  rows.prepend(row);
  while (rows.childElementCount > MOST) rows.lastElementChild.remove();
}
function records(all) {
  byId("records").replaceChildren();
  if (!all.length) byId("records").append(empty(6, "Nothing was refused yet."));
  for (const one of all) record(one);
}
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    show = button.dataset.show;
    for (const other of document.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", String(other === button));
    for (const row of byId("records").children) fits(row);
  });
}

// ---- grants

function grants(all) {
  const rows = byId("grants");
  rows.replaceChildren();
  byId("grants-note").textContent = plain(all?.why);
  for (const grant of all?.grants || []) {
    const row = make("tr");
    const what = { name: grant.subject.name, domain: `${grant.subject.domain} and below`, address: grant.subject.address }[grant.subject.kind];
    const where = cell(shown(what));
    if (grant.port) where.append(` port ${grant.port}`);
    const until = grant.until ? moment(grant.until) : grant.lasts.kind === "run" ? "the end of the run" : "it is revoked";
    const button = make("button", "Revoke");
    button.type = "button";
    button.setAttribute("aria-label", `Revoke the answer about ${plain(what)}`);
    button.dataset.revoke = grant.id;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await post("/revoke", { grant: grant.id });
        row.remove();
      } catch (error) {
        notice(error.message);
        button.disabled = false;
      }
    });
    const by = grant.by || {};
    row.append(
      cell(shown(grant.agent)),
      make("td", grant.ruling === "allow" ? "allowed" : "denied", grant.ruling === "allow" ? "allow" : "deny"),
      where,
      make("td", until),
      cell(shown(by.name || `user ${by.uid}`), ` by ${plain(by.via)}`),
      cell(button),
    );
    rows.append(row);
  }
  if (!rows.childElementCount) rows.append(empty(6, "None."));
}

// ---- live

const NEWS = {
  daemon(why) {
    notice(why);
    if (why) state("No daemon", "bad");
  },
  status(all) {
    status(all);
    if (!all) state("No daemon", "bad");
  },
  records,
  record,
  silent(why) {
    byId("asking-note").textContent = plain(why);
    count();
  },
  questions(all) {
    const still = new Set(all.map((question) => question.id));
    for (const id of [...questions.keys()]) if (!still.has(id)) settled({ question: id });
    all.forEach(ask);
  },
  question: ask,
  settled,
  grants,
};

async function follow() {
  const response = await fetch("/live", { headers: { "x-exeat-key": key } });
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    const error = new Error(answer.error || `the page's server said ${response.status}`);
    error.final = response.status === 401 || response.status === 403;
    throw error;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      let event = "";
      let data = "";
      for (const row of part.split("\n")) {
        if (row.startsWith("event:")) event = row.slice(6).trim();
        if (row.startsWith("data:")) data += row.slice(5).trimStart();
      }
      if (data && Object.hasOwn(NEWS, event)) NEWS[event](JSON.parse(data));
    }
  }
}

async function begin() {
  const token = location.hash.slice(1);
  if (token) {
    // Not in the history, nor in what somebody sees over the shoulder.
    history.replaceState(null, "", "/");
    try {
      key = (await post("/session", { token })).key;
      sessionStorage.setItem("key", key);
    } catch (error) {
      state("Closed", "bad");
      notice(error.message);
      return;
    }
  } else {
    key = sessionStorage.getItem("key");
  }
  if (!key) {
    state("Closed", "bad");
    notice("Open the address that `exeat ui` printed; press Enter in its terminal for another one.");
    return;
  }
  for (;;) {
    try {
      await follow();
      notice("The page's server has ended: start `exeat ui` again.");
    } catch (error) {
      notice(error.final ? error.message : "The page's server does not answer: start `exeat ui` again.");
      if (error.final) {
        state("Closed", "bad");
        sessionStorage.removeItem("key");
        return;
      }
    }
    state("Not connected", "bad");
    NEWS.questions([]);
    await new Promise((done) => setTimeout(done, 2000));
  }
}
begin();
