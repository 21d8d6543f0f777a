export interface Options {
  /** The id of the last message that the page has, or the ids by channel. "" requests all. */
  since?: string | Record<string, string>;
  /** The limit of the random delay after the first failure, in milliseconds. Default: 1,000. */
  minDelay?: number;
  /** The maximum of that limit, which doubles with each failure. Default: 30,000. */
  maxDelay?: number;
  /** Milliseconds until an attempt without an answer is given up. Default: 10,000. */
  connectTimeout?: number;
  /** Milliseconds without a message until a connection is given up. Default: no limit. */
  maxSilence?: number;
  /** Bytes of messages that wait for a connection. Default: 262,144. */
  maxQueuedBytes?: number;
}

export type State = "connecting" | "open" | "waiting" | "closing" | "closed";

export interface StateEvent extends Event {
  readonly state: State;
  /** Why the connection was lost, in the states "waiting" and "closed". */
  readonly code?: number;
  readonly reason?: string;
  /** Milliseconds until the next attempt, in the state "waiting". */
  readonly delay?: number;
}

export interface Events {
  open: Event;
  message: MessageEvent;
  state: StateEvent;
  gap: Event;
  close: CloseEvent;
}

export type Data = string | ArrayBuffer | ArrayBufferView<ArrayBuffer> | Blob;

export class ReconnectingWebSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /** `url` may be relative. A function is called before every attempt. */
  constructor(
    url: string | URL | (() => string | URL | Promise<string | URL>),
    protocols?: string | string[],
    options?: Options,
  );

  readonly state: State;
  readonly readyState: 0 | 1 | 2 | 3;
  readonly url: string;
  readonly protocol: string;
  readonly extensions: string;
  readonly bufferedAmount: number;
  binaryType: BinaryType;
  since: string | Record<string, string> | undefined;

  onopen: ((event: Event) => void) | null;
  onmessage: ((event: MessageEvent) => void) | null;
  onstate: ((event: StateEvent) => void) | null;
  ongap: ((event: Event) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;

  /** Send now, or after the next "open" event. Throws QuotaExceededError if the queue is full. */
  send(data: Data): void;
  /** End the connection for good, and drop the queue. */
  close(code?: number, reason?: string): void;
  /** Give up the current connection, if any, and connect now. */
  reconnect(): void;

  addEventListener<Name extends keyof Events>(
    type: Name,
    listener: ((event: Events[Name]) => void) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Name extends keyof Events>(
    type: Name,
    listener: ((event: Events[Name]) => void) | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

declare global {
  /** What geventws.classic.js defines, and geventws.js exports. */
  var ReconnectingWebSocket: typeof import("./geventws.js").ReconnectingWebSocket;
}
