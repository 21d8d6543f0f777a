// A WebSocket to one room that comes back after every loss, until it is stopped.

// All in milliseconds.
const FIRST_DELAY = 500;
const LONGEST_DELAY = 30_000;
const PATIENCE = 10_000; // for an answer, before the connection is taken for dead

export class Connection {
  #place;
  #since = ""; // the id of the last message that we have got
  #handlers;
  #socket = null;
  #losses = 0; // since the last welcome
  #retryTimer = null;
  #answerTimer = null;
  #stopped = false;

  // Handlers: onState("connecting" | "open" | "waiting"), onEvent(event), onRefused(reason).
  // After onRefused, which the server answers to a bad name or room, nothing more happens.
  constructor(room, name, handlers) {
    this.#place = `/${encodeURIComponent(room)}?name=${encodeURIComponent(name)}`;
    this.#handlers = handlers;
    this.#connect();
  }

  // Whether it went out. What the server made of it comes back as an event.
  send(text) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify({ text }));
    this.#awaitAnswer();
    return true;
  }

  // The network has gone. An open connection would not notice until we say something.
  doubt() {
    if (this.#socket !== null) this.#lose();
  }

  // Do not wait for the next attempt.
  retryNow() {
    if (this.#retryTimer === null) return;
    clearTimeout(this.#retryTimer);
    this.#connect();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    this.#drop();
  }

  async #connect() {
    this.#retryTimer = null;
    this.#handlers.onState("connecting");
    let reason;
    try {
      reason = await reasonAgainst(this.#place);
    } catch { // No network, no server, or a proxy in front that finds none.
      if (!this.#stopped) this.#retryLater();
      return;
    }
    if (this.#stopped) return;
    if (reason === null) {
      this.#open();
    } else {
      this.stop();
      this.#handlers.onRefused(reason);
    }
  }

  #open() {
    const origin = location.origin.replace(/^http/, "ws");
    const since = encodeURIComponent(this.#since);
    this.#socket = new WebSocket(`${origin}/ws${this.#place}&since=${since}`);
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#socket.onclose = () => this.#lose();
    this.#awaitAnswer(); // The server speaks first.
  }

  #receive(event) {
    clearTimeout(this.#answerTimer);
    this.#answerTimer = null;
    if (event.type === "welcome") {
      this.#losses = 0;
      this.#handlers.onState("open");
    }
    this.#since = event.id ?? this.#since;
    this.#handlers.onEvent(event);
  }

  // A dead connection can look open for minutes. One that owes us an answer cannot.
  #awaitAnswer() {
    this.#answerTimer ??= setTimeout(() => this.#lose(), PATIENCE);
  }

  #lose() {
    this.#drop();
    this.#retryLater();
  }

  #drop() {
    clearTimeout(this.#answerTimer);
    this.#answerTimer = null;
    if (this.#socket === null) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  // Twice as long after each loss, so that a server in trouble gets some rest; and partly by
  // chance, so that the thousand pages that it lost do not all come back in the same instant.
  #retryLater() {
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#losses);
    this.#losses += 1;
    const delay = longest * (0.5 + Math.random() / 2);
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
    this.#handlers.onState("waiting");
  }
}

// Why the server would not let us in, or null. We ask it first because a browser does not tell
// a page why a WebSocket was refused.
async function reasonAgainst(place) {
  const response = await fetch(`/check${place}`, { signal: AbortSignal.timeout(PATIENCE) });
  if (response.ok) return null;
  const isOurs = response.headers.get("Content-Type")?.startsWith("text/plain");
  if (!isOurs) throw new Error(`unexpected answer: ${response.status}`);
  return (await response.text()).trim();
}
