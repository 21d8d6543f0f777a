// geventws.js: a WebSocket that reconnects. MIT license. The guide is docs/javascript.md.

{
  const READY_STATES = { connecting: 0, waiting: 0, open: 1, closing: 2, closed: 3 };
  const DEFAULTS = {
    since: undefined, // the id of the last message that the page has; "" requests all
    minDelay: 1000, // milliseconds, as all times here
    maxDelay: 30_000,
    connectTimeout: 10_000,
    maxSilence: Infinity,
    maxQueuedBytes: 1 << 18,
  };
  // A connection that lasted for so long counts as a success: the delays begin anew.
  const STABLE = 5000;
  // A connection whose loss is reported so soon after a sleep was lost during the sleep.
  const AWAKENING = 1000;

  // geventws closes with 1008, too, if a slow network has delayed a message for too long.
  const isFinal = ({ code, reason }) =>
    code === 1000 ||
    (code === 1008 && reason !== "message timeout") ||
    (code >= 4400 && code <= 4499);

  globalThis.ReconnectingWebSocket = class ReconnectingWebSocket extends EventTarget {
    #url;
    #protocols;
    #options;
    #state = "connecting";
    #socket = null;
    #attempt = null; // identifies the current attempt; events of earlier ones are ignored
    #timer; // for the next attempt, the answer to this one, or the silence after it
    #failures = 0;
    #openedAt = Infinity;
    #wokeAt = -Infinity;
    #queue = [];
    #queuedBytes = 0;
    #binaryType = "blob";
    #listeners = new AbortController();

    constructor(url, protocols = [], options = {}) {
      super();
      this.#url = url;
      this.#protocols = protocols;
      this.#options = { ...DEFAULTS, ...options };
      const { since } = this.#options;
      this.since = typeof since === "object" ? { ...since } : since;
      for (const type of ["open", "message", "state", "gap", "close"]) {
        this[`on${type}`] = null;
        this.addEventListener(type, (event) => this[`on${type}`]?.(event));
      }
      this.#connect(); // Throws, as WebSocket does, if the URL is invalid.
      const { signal } = this.#listeners;
      const wake = () => this.#wake();
      const wakeIfVisible = () => document.hidden || this.#wake();
      addEventListener("online", wake, { signal });
      addEventListener("offline", () => this.#giveUp("offline"), { signal });
      // A page in the cache of the back button would keep its connection.
      const pause = ({ persisted }) => persisted && this.#giveUp("page hidden");
      addEventListener("pagehide", pause, { signal });
      addEventListener("pageshow", wake, { signal });
      globalThis.document?.addEventListener("resume", wake, { signal }); // after freezing
      globalThis.document?.addEventListener("visibilitychange", wakeIfVisible, { signal });
    }

    get state() {
      return this.#state;
    }

    get readyState() {
      return READY_STATES[this.#state];
    }

    get url() {
      return this.#socket?.url ?? "";
    }

    get protocol() {
      return this.#socket?.protocol ?? "";
    }

    get extensions() {
      return this.#socket?.extensions ?? "";
    }

    get bufferedAmount() {
      return this.#queuedBytes + (this.#socket?.bufferedAmount ?? 0);
    }

    get binaryType() {
      return this.#binaryType;
    }

    set binaryType(type) {
      this.#binaryType = type;
      if (this.#socket) this.#socket.binaryType = type;
    }

    // Sends now, or after the next "open" event. Throws if the queue for that is full.
    send(data) {
      if (this.#state === "open") return this.#socket.send(data);
      if (this.readyState !== 0) return; // closed: WebSocket drops it silently, too
      const isBinary = [Blob, ArrayBuffer].some((type) => data instanceof type);
      const copy = isBinary || ArrayBuffer.isView(data) ? new Blob([data]) : String(data);
      const size = new Blob([copy]).size || 1; // Even empty messages must not pile up.
      if (this.#queuedBytes + size > this.#options.maxQueuedBytes) {
        throw new DOMException("Not connected, and the queue is full.", "QuotaExceededError");
      }
      this.#queue.push(copy);
      this.#queuedBytes += size;
    }

    // Ends it for good. Messages in the queue are dropped.
    close(code, reason = "") {
      if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
        throw new DOMException(`${code} is not a code for pages.`, "InvalidAccessError");
      }
      if (this.readyState > 1) return;
      if (this.#state === "open") {
        this.#socket.close(...(code === undefined ? [] : [code, reason]));
        clearTimeout(this.#timer);
        this.#change("closing"); // until the "close" event of the socket
      } else {
        this.#drop();
        this.#change("closing");
        queueMicrotask(() => this.#end({ code: code ?? 1005, reason, wasClean: true }));
      }
    }

    // Gives up the current connection, if any, and connects now.
    reconnect() {
      if (this.readyState > 1) return;
      this.#drop();
      this.#connect();
    }

    #connect() {
      const attempt = (this.#attempt = {});
      const ifCurrent = (handle) => (result) => attempt === this.#attempt && handle(result);
      clearTimeout(this.#timer);
      this.#change("connecting");
      if (attempt !== this.#attempt) return; // a listener of "state" has closed it
      if (typeof this.#url === "function") this.#ask(ifCurrent);
      else this.#open(this.#url, ifCurrent);
      this.#after(this.#options.connectTimeout, () => this.#lose(1006, "no answer in time"));
    }

    #ask(ifCurrent) {
      const open = (url) => {
        try {
          this.#open(url, ifCurrent);
        } catch (error) { // An invalid URL will not become valid.
          this.#end({ code: 1006, reason: error.message, wasClean: false });
        }
      };
      const fail = (error) => this.#lose(1006, String(error));
      Promise.resolve().then(() => this.#url()).then(ifCurrent(open), ifCurrent(fail));
    }

    #open(url, ifCurrent) {
      const address = new URL(url, globalThis.document?.baseURI ?? location.href);
      address.protocol = address.protocol.replace("http", "ws");
      const ids = typeof this.since === "string" ? { since: this.since } : this.since;
      for (const [name, id] of Object.entries(ids ?? {})) address.searchParams.set(name, id);
      const socket = (this.#socket = new WebSocket(address, this.#protocols));
      socket.binaryType = this.#binaryType;
      socket.onopen = ifCurrent(() => this.#opened(socket));
      socket.onmessage = ifCurrent((event) => this.#receive(event));
      socket.onclose = ifCurrent((event) => {
        if (this.#state === "closing" || isFinal(event)) this.#end(event);
        else this.#lose(event.code, event.reason);
      });
    }

    #opened(socket) {
      this.#openedAt = performance.now();
      this.#awaitMessage();
      this.#change("open");
      this.dispatchEvent(new Event("open")); // First, so that the page can introduce itself.
      if (socket.readyState !== WebSocket.OPEN) return;
      for (const data of this.#queue.splice(0)) socket.send(data);
      this.#queuedBytes = 0;
    }

    #receive(event) {
      this.#awaitMessage();
      if (this.since !== undefined && typeof event.data === "string") this.#follow(event.data);
      this.dispatchEvent(new MessageEvent("message", event));
    }

    // Remembers the id in a message that an envelope has made, and reports a gap.
    #follow(text) {
      let message;
      try {
        message = JSON.parse(text) ?? {};
      } catch {
        return;
      }
      const { id, channel, recovered } = message;
      if (typeof this.since === "object") {
        const ids = typeof id === "string" ? { [channel]: id } : { ...id };
        for (const name in ids) this.since[name] = ids[name] ?? this.since[name];
      } else if (typeof id === "string") {
        this.since = id;
      }
      if (recovered === false) this.dispatchEvent(new Event("gap"));
    }

    #awaitMessage() {
      this.#after(this.#options.maxSilence, () => this.#lose(1006, "no message in time"));
    }

    // Waits for a random time of up to a limit, which doubles with each failure: pages that lost
    // a server together do not come back together.
    #lose(code, reason) {
      this.#drop();
      const now = performance.now();
      if (now - this.#openedAt > STABLE) this.#failures = 0;
      const limit = Math.min(this.#options.maxDelay, this.#options.minDelay * 2 ** this.#failures);
      const delay = now - this.#wokeAt < AWAKENING ? 0 : Math.random() * limit;
      this.#failures += 1;
      this.#openedAt = Infinity;
      this.#wokeAt = -Infinity;
      this.#after(delay, () => this.#connect());
      this.#change("waiting", { code, reason, delay });
    }

    #wake() {
      this.#wokeAt = performance.now();
      if (this.#state === "waiting") this.#connect();
    }

    // An open connection would not notice for minutes that its network or its page has gone.
    #giveUp(reason) {
      if (this.#state === "open" || this.#state === "connecting") this.#lose(1006, reason);
    }

    #end({ code, reason, wasClean }) {
      this.#drop();
      this.#listeners.abort();
      this.#queue = [];
      this.#queuedBytes = 0;
      this.#change("closed", { code, reason });
      this.dispatchEvent(new CloseEvent("close", { code, reason, wasClean }));
    }

    #drop() {
      clearTimeout(this.#timer);
      this.#attempt = null;
      this.#socket?.close();
      this.#socket = null;
    }

    #after(delay, handle) {
      clearTimeout(this.#timer);
      if (delay !== Infinity) this.#timer = setTimeout(handle, delay);
    }

    #change(state, details) {
      this.#state = state;
      this.dispatchEvent(Object.assign(new Event("state"), { state, ...details }));
    }
  };

  for (const [number, name] of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].entries()) {
    ReconnectingWebSocket[name] = ReconnectingWebSocket.prototype[name] = number;
  }
}
