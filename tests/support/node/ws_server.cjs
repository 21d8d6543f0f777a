// `node ws_server.cjs`: an echo server of Node's ws; "close" makes it close, /refuse is refused.
"use strict";
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  maxPayload: 32 << 20,
  perMessageDeflate: true,
  handleProtocols: (offered) => (offered.has("chat") ? "chat" : false),
  verifyClient: ({ req }, done) => done(req.url !== "/refuse", 401, "Who are you?"),
});
server.on("listening", () => console.log(`ws://127.0.0.1:${server.address().port}`));
server.on("connection", (ws) => {
  ws.on("message", (data, isBinary) => {
    if (!isBinary && data.toString() === "close") ws.close(4001, "not you");
    else ws.send(data, { binary: isBinary });
  });
});
