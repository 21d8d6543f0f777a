// What a WebSocket of a browser must do at a server that keeps to the specifications. Each check
// is a function that throws if it is not so. The result is the problem of each check, or "".

const base = location.origin.replace("http", "ws");
let last = 0;
const newId = () => `${location.protocol}${++last}`;
const at = (path, query = {}) => `${base}${path}?${new URLSearchParams(query)}`;
const ask = async (path, query = {}) => (await fetch(`${path}?${new URLSearchParams(query)}`)).json();
const endOf = id => ask("/end", {id});

const equal = (found, expected) => {
    const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
    if (a !== b) throw new Error(`${a} instead of ${b}`);
};
const throws = (name, action) => {
    try { action(); } catch (error) { equal(error.name, name); return; }
    throw new Error(`no ${name}`);
};
const event = (target, name) =>
    new Promise(happened => target.addEventListener(name, happened, {once: true}));

// An open WebSocket.
const open = async (path, query, protocols) => {
    const ws = new WebSocket(at(path, query), protocols ?? []);
    ws.binaryType = "arraybuffer";
    ws.ended = history(ws);
    await Promise.race([event(ws, "open"), event(ws, "close")]);
    return ws;
};
// The events of a WebSocket, up to its end.
const history = async ws => {
    const told = [];
    for (const name of ["open", "error"]) ws.addEventListener(name, () => told.push(name));
    const {code, reason, wasClean} = await event(ws, "close");
    return [...told, code, reason, wasClean];
};
const next = async ws => (await event(ws, "message")).data;
const echo = async (ws, data) => { ws.send(data); return next(ws); };
const drained = async ws => {
    while (ws.bufferedAmount) await new Promise(soon => setTimeout(soon, 5));
};
const cookies = () => document.cookie.split("; ");

const FAILED = ["error", 1006, "", false];
const REASON = "é".repeat(61) + "!"; // 123 bytes

const checks = {
    // ------------------------------------------------------------------ opening handshake

    async extensionsThatWereAgreed() {
        const ws = new WebSocket(at("/talk"));
        equal(ws.extensions, "");
        await event(ws, "open");
        equal(ws.extensions,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        equal(await echo(ws, "a".repeat(5000)), "a".repeat(5000));
        ws.close();
        const plain = await open("/plain-talk");
        equal(plain.extensions, "");
        equal(await echo(plain, "a".repeat(5000)), "a".repeat(5000));
        plain.close();
    },

    async extensionsThatWereNotOffered() {
        for (const more of ["permessage-foo", "permessage-deflate, permessage-deflate",
                            "permessage-deflate; server_max_window_bits=7"])
            equal(await history(new WebSocket(at("/head",
                {more: `Sec-WebSocket-Extensions: ${more}`}))), FAILED);
    },

    async aWrongAcceptKey() {
        equal(await history(new WebSocket(at("/head", {accept: "wrong"}))), FAILED);
        const right = new WebSocket(at("/head"));
        await event(right, "open");
        right.close();
    },

    async subprotocols() {
        const none = await open("/subprotocol");
        equal(none.protocol, "");
        none.close();
        for (const [offer, choose] of [["one", "one"], [["one", "two"], "two"],
                                       [["two", "ONE", "one"], "one"]]) {
            const ws = await open("/subprotocol", {choose}, offer);
            equal(ws.protocol, choose);
            ws.close();
        }
    },

    async subprotocolsThatAreWrong() {
        // The server chooses none of those that were offered.
        equal(await history(new WebSocket(at("/subprotocol"), "one")), FAILED);
        for (const [offer, answer] of [[[], "one"], [["one"], "two"], [["one"], "ONE"],
                                       [["one", "two"], "one, two"]])
            equal(await history(new WebSocket(
                at("/head", {more: `Sec-WebSocket-Protocol: ${answer}`}), offer)), FAILED);
        for (const offer of [[""], ["a b"], ["é"], ["a", "a"], ["a\u0080"], ["a/b"]])
            throws("SyntaxError", () => new WebSocket(at("/talk"), offer));
    },

    async headersOfTheRequest() {
        const ws = new WebSocket(`${base}/headers?é=ü%20&x=1`);
        const told = JSON.parse(await next(ws));
        equal(told.HTTP_ORIGIN, location.origin);
        equal(told.HTTP_REFERER, null);
        equal(told.HTTP_CACHE_CONTROL, "no-cache");
        equal(told.QUERY_STRING, "%C3%A9=%C3%BC%20&x=1");
    },

    async theOriginInAWorker() {
        const source = `onmessage = ({data}) => {
            const ws = new WebSocket(data);
            ws.onmessage = ({data}) => postMessage(data);
            ws.onerror = () => postMessage("{}");
        };`;
        const worker = new Worker(URL.createObjectURL(new Blob([source])));
        worker.postMessage(at("/headers"));
        equal(JSON.parse(await next(worker)).HTTP_ORIGIN, location.origin);
        worker.terminate();
    },

    async anOpaqueOriginIsRefused() {
        const frame = document.createElement("iframe");
        frame.sandbox = "allow-scripts";
        frame.srcdoc = `<script>
            const ws = new WebSocket("${at("/talk")}");
            ws.onopen = ws.onerror = ({type}) => parent.postMessage(type, "*");
        </script>`;
        document.body.append(frame);
        equal((await event(window, "message")).data, "error");
        frame.remove();
    },

    async urlsAndStates() {
        for (const url of ["/talk?x", `${location.origin}/talk?x`]) {
            const ws = new WebSocket(url);
            equal(ws.url, `${base}/talk?x`);
            await event(ws, "open");
            ws.close();
        }
        const ws = new WebSocket(at("/talk"));
        equal([ws.readyState, ws.binaryType, ws.bufferedAmount, ws.protocol], [0, "blob", 0, ""]);
        await event(ws, "open");
        equal(ws.readyState, 1);
        ws.close();
        equal(ws.readyState, 2);
        await event(ws, "close");
        equal(ws.readyState, 3);
        for (const url of ["foo://a/", `${base}/#fragment`, `${base}:port/`, base.replace(location.host, "[::1/")])
            throws("SyntaxError", () => new WebSocket(url));
    },

    async refusals() {
        for (const status of ["200 OK", "404 Not Found", "401 Unauthorized",
                              "403 Forbidden", "500 Internal Server Error",
                              "503 Service Unavailable"])
            equal(await history(new WebSocket(at("/refuse", {status}))), FAILED);
        await (await open("/talk")).close();
    },

    async redirectsAreNotFollowed() {
        const before = (await ask("/requests"))["/talk"];
        for (const status of ["301 Moved Permanently", "302 Found", "303 See Other",
                              "307 Temporary Redirect", "308 Permanent Redirect"])
            equal(await history(new WebSocket(at("/refuse", {status}))), FAILED);
        equal((await ask("/requests"))["/talk"], before);
    },

    async basicAuthenticationInTheUrl() {
        const ws = new WebSocket(at("/basic").replace("//", "//Ann:secret@"));
        await Promise.race([event(ws, "open"), event(ws, "close")]);
        equal(await echo(ws, "hello"), "hello");
        ws.close();
    },

    // ---------------------------------------------------------------------------- cookies

    async cookiesOfThe101() {
        const ws = await open("/cookies", {set: JSON.stringify([
            "seen=1; Path=/", "hidden=2; Path=/; HttpOnly", "elsewhere=3; Path=/elsewhere",
            "strict=4; Path=/; SameSite=Strict"])});
        // They are there when the WebSocket is open.
        equal(["seen=1", "hidden=2", "elsewhere=3", "strict=4"].map(
            cookie => cookies().includes(cookie)), [true, false, false, true]);
        ws.close();
        const sent = JSON.parse(await next(new WebSocket(at("/headers")))).HTTP_COOKIE.split("; ");
        equal(["seen=1", "hidden=2", "elsewhere=3", "strict=4"].map(
            cookie => sent.includes(cookie)), [true, true, false, true]);
    },

    async cookiesThatThe101Deletes() {
        const past = "Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        const ws = await open("/cookies", {set: JSON.stringify([
            `seen=; ${past}`, "hidden=; Path=/; HttpOnly; Max-Age=0", `strict=; ${past}`])});
        equal(cookies().filter(cookie => /^(seen|strict)=/.test(cookie)), []);
        ws.close();
        const sent = JSON.parse(await next(new WebSocket(at("/headers")))).HTTP_COOKIE ?? "";
        equal(/(seen|hidden|strict)=/.test(sent), false);
    },

    async cookiesThatTheScriptSets() {
        document.cookie = "mine=5; Path=/";
        const sent = JSON.parse(await next(new WebSocket(at("/headers")))).HTTP_COOKIE;
        equal(sent.split("; ").includes("mine=5"), true);
        document.cookie = "mine=; Path=/; Max-Age=0";
    },

    // ---------------------------------------------------------------------------- messages

    async textOfEveryKind() {
        const ws = await open("/talk");
        for (const text of ["", "ascii", "grüß dich", "☃ \u{1f600}", "\0", "\ufeffbom", "\uffff"])
            equal(await echo(ws, text), text);
        equal(await echo(ws, "lone \ud800, \udfff!"), "lone \ufffd, \ufffd!");
        equal(await echo(ws, null), "null");
        equal(await echo(ws, 1.5), "1.5");
        ws.close();
    },

    async lengthsAtWhichTheHeaderOfAFrameChanges() {
        const ws = await open("/plain-talk");
        for (const size of [0, 1, 125, 126, 127, 65535, 65536, 65537, (1 << 20)]) {
            equal((await echo(ws, new Uint8Array(size))).byteLength, size);
            equal(await echo(ws, "x".repeat(size)) === "x".repeat(size), true);
        }
        ws.close();
    },

    async binaryDataOfEveryKind() {
        const ws = await open("/talk");
        const bytes = Uint8Array.from({length: 64}, (_, i) => i);
        for (const [data, from, to] of [
            [bytes.buffer, 0, 64], [bytes.subarray(3, 9), 3, 9],
            [new Int16Array(bytes.buffer, 4, 5), 4, 14], [new Uint32Array(bytes.buffer, 8), 8, 64],
            [new Float32Array(bytes.buffer, 0, 2), 0, 8], [new Float64Array(bytes.buffer), 0, 64],
            [new DataView(bytes.buffer, 1, 2), 1, 3], [new Blob([bytes.subarray(1, 5)]), 1, 5],
            [new ArrayBuffer(0), 0, 0], [new Blob([]), 0, 0]])
            equal([...new Uint8Array(await echo(ws, data))], [...bytes.slice(from, to)]);
        ws.binaryType = "blob";
        const blob = await echo(ws, bytes);
        equal([blob instanceof Blob, blob.size], [true, 64]);
        ws.binaryType = "neither";
        equal(ws.binaryType, "blob");
        ws.close();
    },

    async fragmentsAndPingsOfTheServer() {
        // "a" + Ping + "b" + Pong + "c", and an empty message of two fragments.
        const ws = new WebSocket(at("/frames", {hex: "010161890170000162" + "8a00" + "800163"
            + "0200" + "8000"}));
        ws.binaryType = "arraybuffer";
        const messages = [];
        await new Promise(heard => ws.onmessage = ({data}) => {
            if (messages.push(data) == 2) heard();
        });
        equal([messages[0], messages[1].byteLength], ["abc", 0]);
        equal(await echo(ws, "still open"), "still open");
        ws.close();
    },

    async framesThatNoServerMaySend() {
        for (const hex of [
            "c10161",                // RSV1 without an extension
            "830161",                // an unknown opcode
            "8b00",                  // an unknown control opcode
            "8181000000" + "0061",   // masked
            "800161",                // continues nothing
            "010161810162",          // a message inside of another
            "0900",                  // a Ping in fragments
            "897e007e" + "00".repeat(126),  // a Ping of 126 bytes
            "8101ff",                // not UTF-8
            "880103",                // half a code
            "880203ed",              // the code 1005
        ]) {
            const id = newId();
            const ws = new WebSocket(at("/frames", {hex, id}));
            equal([hex, await history(ws)], [hex, ["open", ...FAILED]]);
            equal([hex, (await endOf(id))[0]], [hex, 1002]);
        }
    },

    // -------------------------------------------------------------- buffers and back pressure

    async bufferedAmountCountsBytes() {
        const ws = await open("/talk");
        ws.send("é");
        ws.send(new Uint8Array(10));
        ws.send(new Blob(["12345"]));
        equal(ws.bufferedAmount, 17);
        await drained(ws);
        ws.close();
        ws.send("not any more");
        equal(ws.bufferedAmount, 12);
        await event(ws, "close");
        equal(ws.bufferedAmount, 12);
    },

    async sendingBeforeTheWebSocketIsOpen() {
        const ws = new WebSocket(at("/talk"));
        throws("InvalidStateError", () => ws.send("too early"));
        await event(ws, "open");
        ws.close();
    },

    async aViewThatDoesNotReceiveMakesThePageWait() {
        const id = newId();
        const ws = await open("/busy", {id});
        for (let i = 0; i < 32; i++) ws.send(new Uint8Array(1 << 20));
        ws.send("how much?");
        await new Promise(soon => setTimeout(soon, 200));
        equal(ws.bufferedAmount > 8 << 20, true);
        await ask("/signal", {id});
        equal(await next(ws), String(32 << 20));
        equal(ws.bufferedAmount, 0);
        ws.close();
    },

    // ------------------------------------------------------------------- closing handshake

    async thePageCloses() {
        for (const [args, end] of [
            [[], [1005, ""]], [[1000], [1000, ""]], [[1000, "done"], [1000, "done"]],
            [[3000, REASON], [3000, REASON]], [[4999, ""], [4999, ""]],
            [[3999, "lone \ud800"], [3999, "lone \ufffd"]],
        ]) {
            const id = newId();
            const ws = await open("/talk", {id});
            ws.close(...args);
            ws.close(1000, "again");
            equal(await ws.ended, ["open", ...end, true]);
            equal(await endOf(id), end);
        }
    },

    async codesAndReasonsThatThePageMayNotSend() {
        const ws = await open("/talk");
        for (const code of [0, 500, 999, 1001, 1005, 2999, 5000, 65536 + 1000, "x", null])
            throws("InvalidAccessError", () => ws.close(code));
        throws("SyntaxError", () => ws.close(1000, REASON + "!"));
        equal(await echo(ws, "still open"), "still open");
        ws.onclose = () => ws.close(); // no effect
        ws.close(undefined);
        equal(await ws.ended, ["open", 1005, "", true]);
    },

    async theServerCloses() {
        for (const [code, reason] of [[1000, ""], [1000, "done"], [1001, ""], [1011, "sorry"],
                                      [1013, ""], [3000, REASON], [4999, "over"]])
            equal(await history(new WebSocket(at("/close", {code, reason}))),
                ["open", code, reason, true]);
        // A Close frame without a code.
        equal(await history(new WebSocket(at("/head", {hex: "8800"}))), ["open", 1005, "", true]);
    },

    async theConnectionIsLost() {
        const [opened, ...end] = await history(new WebSocket(at("/lose")));
        equal([opened, ...end.slice(-3)], ["open", 1006, "", false]);
    },

    async aBusyViewDoesNotDelayTheClosingHandshake() {
        const id = newId();
        const ws = await open("/busy", {id});
        ws.send("not received yet");
        ws.close(3001, "bye");
        equal(await ws.ended, ["open", 3001, "bye", true]);
        await ask("/signal", {id});
        equal(await endOf(id), [3001, "bye"]);
    },

    async closingBeforeTheWebSocketIsOpen() {
        const ws = new WebSocket(at("/talk"));
        ws.close();
        equal(ws.readyState, 2);
        equal(await history(ws), FAILED);
    },

    async messagesBeforeTheCloseArrive() {
        const ws = await open("/talk");
        const messages = [];
        ws.onmessage = ({data}) => messages.push(data);
        for (let i = 0; i < 100; i++) ws.send(String(i));
        ws.send("last");
        await new Promise(heard => ws.addEventListener("message",
            ({data}) => data === "last" && heard()));
        ws.close();
        await ws.ended;
        equal(messages.length, 101);
    },

    // ------------------------------------------------------------- documents that are unloaded

    async framesThatGo() {
        for (const leave of [
            frame => frame.remove(),
            frame => { frame.src = "about:blank"; },
            frame => frame.contentWindow.location.reload(),
        ]) {
            const id = newId();
            const frame = document.createElement("iframe");
            frame.src = `/frame?id=${encodeURIComponent(id)}`;
            const opened = event(window, "message");
            document.body.append(frame);
            equal((await opened).data, "open");
            leave(frame);
            equal(await endOf(id), [1001, ""]);
            frame.remove();
        }
    },

    async aWorkerThatIsTerminated() {
        const id = newId();
        const source = `const ws = new WebSocket("${at("/talk", {id})}");
            ws.onopen = () => postMessage("open");`;
        const worker = new Worker(URL.createObjectURL(new Blob([source])));
        equal(await next(worker), "open");
        worker.terminate();
        equal((await endOf(id))[0], 1001);
    },

    // -------------------------------------------------------------------- WebSocketStream

    async aStreamIsOpenedAndClosed() {
        const id = newId();
        const stream = new WebSocketStream(at("/talk", {id}));
        const {readable, writable, extensions, protocol} = await stream.opened;
        equal([extensions.split(";")[0], protocol], ["permessage-deflate", ""]);
        const [reader, writer] = [readable.getReader(), writable.getWriter()];
        await writer.write("text");
        equal((await reader.read()).value, "text");
        await writer.write(new Uint8Array([1, 2]));
        equal([...new Uint8Array((await reader.read()).value)], [1, 2]);
        stream.close({closeCode: 4321, reason: "enough"});
        const {closeCode, reason} = await stream.closed;
        equal([closeCode, reason], [4321, "enough"]);
        equal(await endOf(id), [4321, "enough"]);
    },

    async aStreamIsClosedByTheServerOrFails() {
        const {closeCode, reason} = await new WebSocketStream(
            at("/close", {code: 3002, reason: "over"})).closed;
        equal([closeCode, reason], [3002, "over"]);
        for (const url of [at("/lose"), at("/refuse", {status: "404 Not Found"})])
            equal(await new WebSocketStream(url).closed.then(() => "", error => error.name),
                "WebSocketError");
    },
};

const done = arguments[arguments.length - 1];
(async () => {
    const problems = {};
    for (const [name, check] of Object.entries(checks)) {
        const late = new Promise((_, fail) => setTimeout(fail, 8000, new Error("it takes too long")));
        problems[name] = await Promise.race([check(), late]).then(() => "", String);
    }
    return problems;
})().then(done);
