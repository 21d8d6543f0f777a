// `node socketio_client.cjs SCENARIO URL`: what socket.io-client meets, as JSON on one line.
"use strict";
const { io } = require("socket.io-client");

const PATIENCE = 15_000;

async function open(url, transports) {
  const socket = io(url, { transports, forceNew: true, reconnection: false });
  await new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  });
  return socket;
}

const upgraded = (socket) => new Promise((resolve) => {
  if (socket.io.engine.transport.name === "websocket") resolve();
  else socket.io.engine.once("upgrade", resolve);
});

// Everything a connection can do; ends by the client's leaving.
async function talk(socket) {
  const big = Buffer.alloc(2 << 20, "x");
  const told = {
    transport: socket.io.engine.transport.name,
    sum: await socket.emitWithAck("add", 2, 3),
    text: await socket.emitWithAck("reverse", "grüß dich"),
    binary: [...(await socket.emitWithAck("reverse", Buffer.from([1, 2, 255])))],
    big: (await socket.emitWithAck("reverse", big)).length,
  };
  socket.disconnect();
  return told;
}

const scenarios = {
  websocket: async (url) => talk(await open(url, ["websocket"])),

  async upgrade(url) {
    const socket = await open(url, ["polling", "websocket"]);
    await upgraded(socket);
    return talk(socket);
  },

  // Messages during the upgrade must be neither lost nor swapped.
  async busy(url) {
    const socket = await open(url, ["polling", "websocket"]);
    const heard = [];
    const all = new Promise((resolve) => {
      socket.on("said", (text) => { if (heard.push(text) == 100) resolve(); });
    });
    await socket.emitWithAck("join", "busy");
    for (let i = 0; i < 100; i++) socket.emit("say", "busy", i);
    await all;
    socket.disconnect();
    return heard.every((number, i) => number === i);
  },

  async rooms(url) {
    const sockets = await Promise.all([1, 2, 3].map(() => open(url, ["websocket"])));
    const heard = sockets.map((socket) => {
      const words = [];
      socket.on("said", (word) => words.push(word));
      return words;
    });
    const [a, b, c] = sockets;
    for (const [socket, room] of [[a, "kitchen"], [b, "kitchen"], [a, "all"], [b, "all"], [c, "all"]])
      await socket.emitWithAck("join", room);
    a.emit("say", "kitchen", "pst");
    const last = Promise.all(sockets.map((socket) => new Promise((resolve) => {
      socket.on("said", (word) => { if (word === "hello") resolve(); });
    })));
    a.emit("say", "all", "hello");
    await last;
    for (const socket of sockets) socket.disconnect();
    return heard;
  },

  // The vote counter of the documentation.
  async votes(url) {
    const sockets = [];
    const seen = [];
    for (let i = 0; i < 2; i++) {
      const socket = io(url, { transports: ["websocket"], forceNew: true });
      await new Promise((resolve) => socket.once("totals", resolve));
      sockets.push(socket);
    }
    const all = sockets.map((socket) => new Promise((resolve) => socket.once("totals", resolve)));
    sockets[0].emit("vote", "right");
    seen.push(...(await Promise.all(all)));
    for (const socket of sockets) socket.disconnect();
    return seen;
  },

  async dropped(url) {
    const socket = await open(url, ["websocket"]);
    const gone = new Promise((resolve) => socket.once("disconnect", resolve));
    socket.emit("drop");
    return gone;
  },
};

async function main(scenario, url) {
  setTimeout(() => { throw new Error(`${scenario} takes too long`); }, PATIENCE).unref();
  console.log(JSON.stringify(await scenarios[scenario](url)));
  process.exit();
}

main(...process.argv.slice(2));
