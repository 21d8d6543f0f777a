import {
  announce, connect, count, find, notify, send, showCounts, showOptions, showScene, totalVotes,
} from "./scene.js";

let round = null;

const ws = connect(address, { show, refused: notify, connected });

// A browser does not tell a page why a WebSocket was refused. The page of the presenter does.
async function address() {
  const page = await fetch("presenter", { method: "HEAD" });
  if (page.status === 403) location.reload();
  return "presenter/live";
}

function connected(isOpen) {
  if (isOpen) return; // The state that follows enables the buttons.
  find("#next").disabled = find("#restart").disabled = true;
  find("#hint").textContent = "No connection. The vote goes on when this page is live again.";
}

function show(state) {
  if (state.round !== round) openStep(state);
  showCounts(state, (votes, share) => (
    `${count(votes, "vote")} · ${Math.round(share * 100)}%`
  ));
  find("#people").textContent = state.people;
  find("#votes").textContent = totalVotes(state);
  const hasEnded = state.options.length === 0;
  find("#next").hidden = find("#next").disabled = hasEnded;
  find("#restart").className = hasEnded ? "primary" : "quiet";
  find("#restart").disabled = false;
  find("#hint").textContent = outlook(state);
}

function openStep(state) {
  const isFirst = round === null;
  round = state.round;
  showScene(state);
  showOptions(state);
  if (isFirst) return;
  announce(state.heading);
  scrollTo(0, 0);
}

/** What closing the vote would do now. */
function outlook(state) {
  if (state.options.length === 0) return "";
  const most = Math.max(...state.options.map(({ votes }) => votes));
  const leaders = state.options.filter(({ votes }) => votes === most);
  if (leaders.length === 1) return `Opens “${leaders[0].text}”`;
  return most === 0 ? "No votes yet: a coin would decide" : "A tie: a coin would decide";
}

function next() {
  // The round says which step is meant: the second of two quick clicks closes nothing.
  if (!find("#next").disabled) send(ws, { do: "next", round });
}

find("#next").addEventListener("click", next);
find("#restart").addEventListener("click", () => find("#sure").showModal());
find("#stay").addEventListener("click", () => find("#sure").close());
find("#go-back").addEventListener("click", () => {
  find("#sure").close();
  send(ws, { do: "restart", round });
});

// Clickers for slides press Page Down. It goes on scrolling while there is more to read.
document.addEventListener("keydown", (event) => {
  const page = document.documentElement;
  const atBottom = page.scrollTop + page.clientHeight >= page.scrollHeight - 4;
  const isNext = event.key === "ArrowRight" || (event.key === "PageDown" && atBottom);
  const hasModifier = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
  if (!isNext || hasModifier || event.repeat || find("#sure").open) return;
  event.preventDefault();
  next();
});
