// A WebSocket that comes back: after a lost network, a phone's sleep or a restarted server.

const FIRST_DELAY = 500; // milliseconds
const LONGEST_DELAY = 10_000;
// The server repeats the state at least every 20 seconds. Longer silence means that the connection
// is dead, even if the browser, which waits for TCP to give up, believes otherwise.
const LONGEST_SILENCE = 50_000;

/**
 * Keep a WebSocket to `path` (relative to the page) open.
 *
 * `onMessage(message)` gets each message, parsed; `onConnection(isOpen)` hears of the connection.
 * Returns `send(message)`, which is false if there is no connection: commands are not kept for
 * later, when they might no longer be what the person wants.
 */
export function connect(path, { onMessage, onConnection }) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  let socket = null;
  let failures = 0;
  let retryTimer;
  let silenceTimer;

  function open() {
    clearTimeout(retryTimer);
    const opening = new WebSocket(url);
    socket = opening;
    listenForSilence();
    // A socket that was given up may still report things: only the present one is heard.
    const ifPresent = (handle) => (event) => opening === socket && handle(event);
    opening.addEventListener("message", ifPresent(receive));
    opening.addEventListener("close", ifPresent(retry));
  }

  function receive(event) {
    // Only a message proves that the server is well: an open connection can be closed at once.
    failures = 0;
    listenForSilence();
    onConnection(true);
    onMessage(JSON.parse(event.data));
  }

  function retry() {
    const given = socket;
    socket = null;
    given.close();
    clearTimeout(silenceTimer);
    onConnection(false);
    // Each failure doubles the delay, and chance spreads it: a whole audience loses a restarted
    // server in the same instant, and must not return in the same instant.
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures);
    failures += 1;
    retryTimer = setTimeout(open, delay * (0.5 + Math.random() / 2));
  }

  function listenForSilence() {
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(retry, LONGEST_SILENCE);
  }

  function hurry() {
    if (socket === null && document.visibilityState === "visible") open();
  }

  addEventListener("online", hurry);
  addEventListener("offline", () => socket !== null && retry());
  document.addEventListener("visibilitychange", hurry);
  open();

  return function send(message) {
    if (socket === null || socket.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(message));
    return true;
  };
}
