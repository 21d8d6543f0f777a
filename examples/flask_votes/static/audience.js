import {
  announce, connect, count, find, notify, send, showCounts, showOptions, showScene,
} from "./scene.js";

let round = null; // The round whose options are in the page,
let mine = null; // the option that the server counts as ours,
let wanted = null; // and the one we asked for and were not answered about yet.
let isConnected = false;

const ws = connect("live", { show, refused, connected });

function connected(isOpen) {
  isConnected = isOpen;
  wanted = isOpen ? wanted : null;
  showChoice();
}

function show(state) {
  if (state.round !== round) openStep(state);
  else if (state.mine !== mine && state.mine !== null) {
    announce(`Your vote: ${state.options[state.mine].text}`);
  }
  mine = state.mine;
  if (wanted === mine) wanted = null;
  showCounts(state, (votes) => count(votes, "vote"));
  showChoice();
}

function openStep(state) {
  const wasVoting = find("#options").contains(document.activeElement);
  const isFirst = round === null;
  round = state.round;
  wanted = null;
  showScene(state);
  showOptions(state).forEach((item, option) => {
    item.querySelector("button").addEventListener("click", () => vote(option));
  });
  if (isFirst) return;
  announce(state.heading);
  scrollTo(0, 0);
  // The button that had the focus is gone: without this, the keyboard would be nowhere.
  if (wasVoting) find("#heading").focus();
}

function vote(option) {
  if (send(ws, { do: "vote", round, option })) {
    wanted = option;
    showChoice();
  } else {
    notify("No connection at the moment. Your vote was not sent.");
  }
}

function refused(reason) {
  wanted = null;
  showChoice();
  notify(reason);
}

function showChoice() {
  find("#options").querySelectorAll("button").forEach((button, option) => {
    button.setAttribute("aria-pressed", option === (wanted ?? mine));
    button.setAttribute("aria-disabled", !isConnected);
    button.classList.toggle("wanted", option === wanted);
  });
  find("#hint").textContent = hint();
}

function hint() {
  if (!isConnected) return "No connection. You can vote as soon as this page is live again.";
  if (mine === null) return "Tap one. You can change your mind until the vote is closed.";
  return "Your vote counts. You can still change it.";
}
