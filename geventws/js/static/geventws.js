// The ES module: import { ReconnectingWebSocket } from "./geventws.js";
// The code is in the other file, which pages can also load as a classic script.
import "./geventws.classic.js";

export const { ReconnectingWebSocket } = globalThis;
