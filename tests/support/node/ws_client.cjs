// `node ws_client.cjs SCENARIO URL`: what Node's ws meets at the server, as JSON on one line.
"use strict";
const { on, once } = require("node:events");
const WebSocket = require("ws");

const PATIENCE = 10_000;

// An open WebSocket whose messages wait for message(), from the very first on.
async function open(url, ...more) {
  const ws = new WebSocket(url, ...more);
  ws.inbox = on(ws, "message", { close: ["close"] });
  await once(ws, "open");
  return ws;
}

// The next message: a string for text, its length for binary.
async function message(ws) {
  const { value: [data, isBinary] } = await ws.inbox.next();
  return isBinary ? data.length : data.toString();
}

async function closed(ws) {
  const [code, reason] = await once(ws, "close");
  return [code, reason.toString()];
}

const scenarios = {
  async echo(url) {
    const ws = await open(url);
    const answers = [];
    for (const data of ["grüß dich", "", Buffer.alloc(1 << 20, "x")]) {
      ws.send(data);
      answers.push(await message(ws));
    }
    ws.close(1000);
    return { answers, closed: await closed(ws) };
  },

  async fragments(url) {
    const ws = await open(url);
    ws.send("one ", { fin: false });
    ws.send("two ", { fin: false });
    ws.send("three", { fin: true });
    const text = await message(ws);
    ws.terminate();
    return text;
  },

  async ping(url) {
    const ws = await open(url);
    const pong = once(ws, "pong");
    ws.ping("marco");
    const [payload] = await pong;
    ws.terminate();
    return payload.toString();
  },

  async answer(url) {
    const ws = await open(url);
    const question = await message(ws);
    for (const data of ["first", "second"]) ws.send(data);
    const verdict = await message(ws);
    ws.terminate();
    return [question, verdict];
  },

  async deflate(url) {
    const ws = await open(url, { perMessageDeflate: { threshold: 0 } });
    const answers = [];
    for (const data of ["a".repeat(5000), "", Buffer.alloc(1 << 20, "x")]) {
      ws.send(data);
      answers.push(await message(ws));
    }
    ws.terminate();
    return { extensions: ws.extensions, answers };
  },

  async subprotocol(url) {
    const ws = await open(url, ["chat.v1", "chat.v2"]);
    const told = await message(ws);
    ws.terminate();
    return { agreed: ws.protocol, told };
  },

  async leave(url) {
    const ws = await open(url);
    ws.close(4008, "bye from Node");
    return closed(ws);
  },

  async left(url) {
    return closed(new WebSocket(url));
  },

  async toobig(url) {
    const ws = await open(url);
    ws.send(Buffer.alloc((1 << 20) + 1));
    return closed(ws);
  },

  async refused(url) {
    const ws = new WebSocket(url);
    const [, response] = await once(ws, "unexpected-response");
    let body = "";
    for await (const chunk of response) body += chunk;
    return [response.statusCode, body];
  },
};

async function main(scenario, url) {
  setTimeout(() => { throw new Error(`${scenario} takes too long`); }, PATIENCE).unref();
  console.log(JSON.stringify(await scenarios[scenario](url)));
}

main(...process.argv.slice(2));
