// What the audience's page and the presenter's have in common. Everything that comes from the
// server is set as textContent, never as HTML.
import { ReconnectingWebSocket } from "../geventws/geventws.js";

// The server repeats the state at least every 20 seconds. Longer silence means that the connection
// is dead, even if the browser, which waits for TCP to give up, believes otherwise.
const LONGEST_SILENCE = 50_000;

/** Connect to `url`, and pass on each state of the show, each refusal, and whether there is a connection. */
export function connect(url, { show, refused, connected }) {
  const ws = new ReconnectingWebSocket(url, [], {
    maxDelay: 10_000, maxSilence: LONGEST_SILENCE,
  });
  ws.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "refused") refused(message.reason);
    else show(message);
  };
  ws.onstate = ({ state }) => {
    showConnection(state === "open");
    connected(state === "open");
  };
  return ws;
}

/** Send a command now or never: later it might no longer be what the person wants. */
export function send(ws, command) {
  const isOpen = ws.readyState === WebSocket.OPEN;
  if (isOpen) ws.send(JSON.stringify(command));
  return isOpen;
}

export const find = (selector) => document.querySelector(selector);

export const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;

export const totalVotes = (state) => state.options.reduce((sum, { votes }) => sum + votes, 0);

/** Show the step of `state`: its texts, and either the place for options or the end. */
export function showScene(state) {
  find("#heading").textContent = state.heading;
  find("#paragraphs").replaceChildren(...state.paragraphs.map((text) => element("p", text)));
  find("#chosen").hidden = state.chosen === null;
  find("#chosen").textContent = state.tossed
    ? `A tie, so a coin decided: ${state.chosen}`
    : `You chose: ${state.chosen}`;
  find("#vote").hidden = state.options.length === 0;
  find("#the-end").hidden = state.options.length > 0;
  find("#road").replaceChildren(...state.road.map((text) => element("li", text)));
}

/** Put one copy of the option template for each option of `state` into the page. */
export function showOptions(state) {
  const items = state.options.map(({ text }, index) => {
    const item = find("#option").content.cloneNode(true).firstElementChild;
    item.querySelector(".letter").textContent = String.fromCharCode(65 + index);
    item.querySelector(".text").textContent = text;
    return item;
  });
  find("#options").replaceChildren(...items);
  return items;
}

/** Set counts and bars of options that are in the page already, so that the bars can glide. */
export function showCounts(state, describe) {
  const total = totalVotes(state);
  const most = Math.max(0, ...state.options.map(({ votes }) => votes));
  state.options.forEach(({ votes }, index) => {
    const item = find("#options").children[index];
    const share = total === 0 ? 0 : votes / total;
    item.style.setProperty("--share", share);
    item.classList.toggle("leads", votes > 0 && votes === most);
    item.querySelector(".count").textContent = describe(votes, share);
  });
}

function showConnection(isOpen) {
  const state = isOpen ? "live" : "lost";
  const connection = find("#connection");
  if (connection.dataset.state === state) return; // Or screen readers would read it again.
  connection.dataset.state = state;
  connection.textContent = isOpen ? "Live" : "Reconnecting";
}

export function announce(text) {
  find("#announcer").textContent = text;
}

let noticeTimer;

/** Show a sentence for a while, over the page. */
export function notify(text) {
  const notice = find("#notice");
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { notice.hidden = true; }, 6000);
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
