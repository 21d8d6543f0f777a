// The page. Whatever people typed goes into it as textContent, never as HTML.
import { ReconnectingWebSocket } from "/geventws/geventws.js";

const LOG_LIMIT = 500; // entries on the page; the oldest go first
const COUNT_FROM = 100; // characters left when the countdown shows up
const SAME_BREATH = 5 * 60_000; // milliseconds in which an author is not named again
const GOING_AWAY = 1001; // the close code of a server that stops
const PATIENCE = 10_000; // milliseconds for an answer, before the connection is taken for dead

const STATES = {
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Connection lost. Trying again…",
  offline: "You are offline.",
};

const $ = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

let ws = null;
let answerTimer;
let welcomed = false;
let me = ""; // as the server calls us, which may differ from what we asked for
let textLimit = Infinity;
let keepsMessages = true; // whether messages outlive the server
let unanswered = []; // texts the server has neither passed on nor refused yet
let unread = 0;

// --- Entering and leaving ---

$("join").addEventListener("submit", (submission) => {
  submission.preventDefault();
  showJoinError("");
  $("enter").disabled = true;
  const name = $("name").value;
  const room = $("room").value;
  const place = `/${encodeURIComponent(room)}?name=${encodeURIComponent(name)}`;
  ws = new ReconnectingWebSocket(() => addressOf(place), [], { since: "" });
  ws.onmessage = ({ data }) => receive(JSON.parse(data));
  ws.ongap = () => addNotice("Some messages may be missing: they came while you were away.");
  ws.onstate = ({ state, code }) => {
    // The server has stopped, and we have all that it has kept. The next one starts from nothing.
    if (code === GOING_AWAY && !keepsMessages) ws.since = "";
    if (state !== "open") showState(state); // "open" is our welcome
  };
  ws.onclose = ({ reason }) => leave(reason);
  remember(name);
  history.replaceState(null, "", `#${encodeURIComponent(room)}`);
});

$("leave").addEventListener("click", () => leave());
$("retry").addEventListener("click", () => ws.reconnect());

// A browser does not tell a page why a WebSocket was refused: we ask with a plain request first.
async function addressOf(place) {
  const answer = await fetch(`/check${place}`, { signal: AbortSignal.timeout(PATIENCE) });
  const isOurs = answer.ok || answer.headers.get("Content-Type")?.startsWith("text/plain");
  if (!isOurs) throw new Error(`unexpected answer: ${answer.status}`); // a proxy without us behind
  if (!answer.ok) ws.close(4400, (await answer.text()).trim());
  return `/ws${place}`;
}

function leave(reason = "") {
  ws.onstate = ws.onclose = null;
  ws.close();
  clearTimeout(answerTimer);
  welcomed = false;
  returnUnanswered();
  $("messages").replaceChildren();
  $("chat").hidden = true;
  $("door").hidden = false;
  $("enter").disabled = false;
  document.title = "Bottle Chat";
  unread = 0;
  showJoinError(reason);
  $(/room/i.test(reason) ? "room" : "name").focus();
}

function showJoinError(reason) {
  $("join-error").textContent = reason;
  for (const id of ["name", "room"]) {
    $(id).setAttribute("aria-invalid", reason.toLowerCase().includes(id));
  }
}

function showChat() {
  if (!$("chat").hidden) return;
  $("door").hidden = true;
  $("chat").hidden = false;
  $("title").textContent = $("room").value.trim();
  $("text").focus();
}

function showState(state) {
  if (state !== "connecting") showChat();
  if (state !== "open") {
    clearTimeout(answerTimer);
    returnUnanswered();
  }
  $("state").textContent = STATES[state === "waiting" && !navigator.onLine ? "offline" : state];
  $("chat").dataset.state = state;
  if (document.activeElement === $("retry")) $("text").focus(); // it is about to disappear
  $("retry").hidden = state !== "waiting";
}

// --- What the server tells us ---

function receive(event) {
  clearTimeout(answerTimer);
  handle[event.type]?.(event);
}

const handle = {
  welcome({ room, name, text_limit: limit, keeps_messages: keeps }) {
    showState("open");
    forgetRefusal();
    me = name;
    textLimit = limit;
    keepsMessages = keeps;
    $("title").textContent = room;
    showUnread(unread);
    // What comes now was said before. Screen readers shall not read out all of it.
    $("log").setAttribute("aria-live", "off");
  },

  members({ members }) {
    $("people").replaceChildren(...members.map(personItem));
    countPeople();
    if (!welcomed) addNotice(`Welcome, ${me}. The address of this page brings others to this room.`);
    welcomed = true;
    const asked = $("name").value.trim();
    if (me.toLowerCase() !== asked.toLowerCase()) {
      addNotice(`Somebody here is called ${asked} already. You are ${me}.`);
    }
    setTimeout(() => $("log").setAttribute("aria-live", "polite"), 1000);
  },

  message(message) {
    if (message.name === me) unanswered.shift();
    addMessage(message);
    if (document.hidden) showUnread(unread + 1);
  },

  refused({ reason }) {
    const text = unanswered.shift();
    $("refusal").textContent = reason;
    if ($("text").value === "") write(text?.trim() ?? "");
    $("text").setAttribute("aria-invalid", "true");
  },

  joined({ members }) {
    $("people").append(...members.map(personItem));
    countPeople();
    for (const [, { name }] of members) addNotice(`${name} joined.`);
  },

  left({ members }) {
    const keys = new Set(members.map(([key]) => key));
    [...$("people").children].filter(({ dataset }) => keys.has(dataset.key)).forEach((item) => item.remove());
    countPeople();
    for (const [, { name }] of members) addNotice(`${name} left.`);
  },
};

// --- Writing ---

$("compose").addEventListener("submit", (submission) => {
  submission.preventDefault();
  forgetRefusal();
  const text = $("text").value;
  if (ws.readyState === WebSocket.OPEN) {
    ws.send(JSON.stringify({ text }));
    unanswered.push(text);
    // A dead connection can look open for minutes. One that owes us an answer cannot.
    clearTimeout(answerTimer);
    answerTimer = setTimeout(() => ws.reconnect(), PATIENCE);
    write("");
    scrollToEnd();
  } else {
    $("refusal").textContent = "Not connected. Your message stays here until you send it again.";
  }
  $("text").focus();
});

$("text").addEventListener("keydown", (key) => {
  // While an input method composes, Enter picks a word.
  if (key.key !== "Enter" || key.shiftKey || key.isComposing) return;
  key.preventDefault();
  $("compose").requestSubmit();
});

$("text").addEventListener("input", () => {
  forgetRefusal();
  fitText();
});

function forgetRefusal() {
  $("refusal").textContent = "";
  $("text").removeAttribute("aria-invalid");
}

function write(text) {
  $("text").value = text;
  fitText();
}

function fitText() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  const left = textLimit - [...field.value].length; // as Python counts, emoji are one
  $("remaining").textContent = left > COUNT_FROM ? "" : left < 0 ? `${-left} too many` : `${left} left`;
  $("remaining").classList.toggle("over", left < 0);
}

// A connection that breaks leaves it open whether the last messages arrived. The author decides.
function returnUnanswered() {
  if (unanswered.length === 0) return;
  write([...unanswered, $("text").value].filter(Boolean).join("\n"));
  unanswered = [];
}

// --- The log and the people ---

function addMessage({ id, name, text, time }) {
  const item = fromTemplate("message");
  const sentAt = new Date(time);
  item.dataset.id = id;
  item.dataset.name = name;
  item.dataset.time = sentAt.getTime();
  item.classList.toggle("mine", name === me);
  const previous = $("messages").lastElementChild;
  item.classList.toggle("follows", previous?.dataset.name === name
    && sentAt - previous.dataset.time < SAME_BREATH);
  paint(item.querySelector(".avatar"), name);
  item.querySelector(".author").textContent = name;
  item.querySelector("time").dateTime = time;
  item.querySelector("time").title = sentAt.toLocaleString();
  item.querySelector("time").textContent = clock.format(sentAt);
  item.querySelector(".text").textContent = text;
  append(item);
}

function addNotice(text) {
  const item = fromTemplate("notice");
  item.textContent = text;
  append(item);
}

function append(item) {
  const follow = isAtEnd();
  $("messages").append(item);
  if ($("messages").childElementCount > LOG_LIMIT) $("messages").firstElementChild.remove();
  if (follow) {
    scrollToEnd();
  } else if (item.classList.contains("message")) {
    $("newer").hidden = false;
  }
}

function personItem([key, { name }]) {
  const item = fromTemplate("person");
  item.dataset.key = key;
  paint(item.querySelector(".avatar"), name);
  item.querySelector(".who").textContent = name === me ? `${name} (you)` : name;
  return item;
}

function countPeople() {
  $("count").textContent = $("people").childElementCount;
}

function paint(avatar, name) {
  let hash = 2166136261; // FNV-1a: one colour for each name, far apart for similar names
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  avatar.style.setProperty("--hue", (hash >>> 8) % 360);
  avatar.textContent = [...name][0].toUpperCase();
}

function fromTemplate(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

// --- Scrolling: follow the conversation, unless somebody reads further up ---

let wasAtEnd = true;

function isAtEnd() {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  return scrollHeight - scrollTop - clientHeight < 40;
}

function scrollToEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

$("newer").addEventListener("click", () => {
  scrollToEnd();
  $("text").focus();
});

$("log").addEventListener("scroll", () => {
  wasAtEnd = isAtEnd();
  if (wasAtEnd) $("newer").hidden = true;
});

// The keyboard of a phone takes half of the log's height.
new ResizeObserver(() => wasAtEnd && scrollToEnd()).observe($("log"));

// --- The window around the page ---

function showUnread(count) {
  unread = count;
  const title = `${$("title").textContent} · Bottle Chat`;
  document.title = unread ? `(${unread}) ${title}` : title;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden || $("chat").hidden) return;
  showUnread(0);
});

// Browsers may forbid storage. Then the name is just asked for again.
function remember(name) {
  try {
    localStorage.setItem("name", name);
  } catch { /* see above */ }
}

function recall() {
  try {
    return localStorage.getItem("name") ?? "";
  } catch {
    return "";
  }
}

$("name").value = recall();
if (location.hash.length > 1) $("room").value = roomInAddress();
if ($("name").value) $("enter").focus();

function roomInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1);
  }
}
