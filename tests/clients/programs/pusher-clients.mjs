/**
 * Stock pusher-js clients in one process, some of them behind laravel-echo. Reads commands as lines of JSON:
 * {"do":NAME,"client":CLIENT,…}; the functions of `commands` are their names. Reports what reaches the bindings of an
 * application: {"client","channel"?,"event","data"}.
 *
 * For each presence channel a client counts what an application would notice: members who are added twice, and removals
 * of users whom the test has marked as `staying`. It also counts watchlist events that say that such users are offline.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

import { packages, report, require, TIMEOUT_MS } from "./common.mjs";

const Pusher = require("pusher-js");
// The package has a broken entry for `require`.
const { default: Echo } = await import(pathToFileURL(join(packages, "node_modules/laravel-echo/dist/echo.js")));

const clients = new Map();
/** Users who never leave: it is false that they are removed, or offline. */
let staying = new Set();

/** The roster of a presence channel as an application keeps it, built from the callbacks alone. */
class Mirror {
  members = new Map();
  rosters = 0;
  duplicates = [];
  falseRemovals = [];

  apply(event, data) {
    if (event === "pusher:subscription_succeeded" && data.members) {
      this.rosters += 1;
      this.members = new Map(Object.entries(data.members));
    }
    if (event === "pusher:member_added") {
      if (this.members.has(String(data.id))) this.duplicates.push(data.id);
      this.members.set(String(data.id), data.info);
    }
    if (event === "pusher:member_removed") {
      if (staying.has(String(data.id))) this.falseRemovals.push(data.id);
      this.members.delete(String(data.id));
    }
  }
}

/** What a binding receives, without the methods of pusher-js's own objects. */
const plain = (data) => (data === undefined ? null : JSON.parse(JSON.stringify(data)));

class Client {
  mirrors = new Map();
  /** Users who are online by the watchlist. */
  online = new Set();
  falseOffline = [];

  constructor(name, { key, port, site, user, signedIn = false, quiet = false, echo = false }) {
    Object.assign(this, { name, quiet });
    const headers = { "X-User": encodeURIComponent(JSON.stringify(user ?? {})) };
    const channelAuthorization = { endpoint: `${site}/pusher/auth`, transport: "ajax", headers };
    const userAuthentication = { endpoint: `${site}/pusher/user-auth`, transport: "ajax", headers };
    const address = { cluster: "", wsHost: "127.0.0.1", wsPort: port, forceTLS: false, enabledTransports: ["ws"] };
    // Otherwise the state of a client that gets no CPU is `unavailable` for a moment.
    const host = { ...address, unavailableTimeout: TIMEOUT_MS };
    if (echo) {
      const ofEcho = { authEndpoint: `${site}/broadcasting/auth`, auth: { headers } };
      const ofUser = { userAuthentication: { endpoint: `${site}/broadcasting/user-auth`, headers } };
      this.echo = new Echo({ broadcaster: echo, key, Pusher, ...host, ...ofEcho, ...ofUser });
      this.pusher = this.echo.connector.pusher;
    } else {
      this.pusher = new Pusher(key, { ...host, channelAuthorization, userAuthentication });
    }
    this.pusher.connection.bind("state_change", ({ current }) => this.report({ event: "state", data: current }));
    this.pusher.connection.bind("error", (error) => this.report({ event: "error", data: plain(error.error) }));
    this.pusher.bind_global((event, data) => this.report({ event: `global ${event}`, data: plain(data) }));
    this.pusher.user.bind_global((event, data) => this.report({ channel: "user", event, data: plain(data) }));
    for (const event of ["online", "offline"]) {
      this.pusher.user.watchlist.bind(event, ({ user_ids: users }) => this.watched(event, users));
    }
    if (signedIn) this.pusher.signin();
  }

  report(event) {
    if (!this.quiet) report({ client: this.name, ...event });
  }

  watched(event, users) {
    for (const user of users) {
      if (event === "online") this.online.add(user);
      else this.online.delete(user);
      if (event === "offline" && staying.has(user)) this.falseOffline.push(user);
    }
    this.report({ event, data: users });
  }

  subscribe(name) {
    const channel = this.pusher.subscribe(name);
    this.follow(channel);
  }

  /** Reports what reaches the bindings of a channel, once per channel object: unsubscribing makes a new object. */
  follow(channel) {
    if (channel.isFollowed) return;
    channel.isFollowed = true;
    const mirror = this.mirrors.get(channel.name) ?? new Mirror();
    this.mirrors.set(channel.name, mirror);
    channel.bind_global((event, data) => {
      mirror.apply(event, data ?? {});
      this.report({ channel: channel.name, event, data: plain(data) });
    });
  }

  /** Binds every callback of laravel-echo. */
  join(room, events, whispers) {
    const channel = this.echo.join(room);
    const say = (event) => (data) => this.report({ channel: `echo ${room}`, event, data: plain(data) });
    channel.here(say("here")).joining(say("joining")).leaving(say("leaving")).error(say("error"));
    for (const event of events) channel.listen(event, say(event));
    for (const event of whispers) channel.listenForWhisper(event, say(`whisper ${event}`));
    this.follow(this.pusher.channel(`presence-${room}`));
  }
}

const of = ({ client }) => clients.get(client);

/** Closes the socket as a browser does when its page is left. Only browsers can do that, so the socket is told. */
function leavePage({ pusher }) {
  pusher.connection.connection?.transport.socket._driver.close("", 1001);
  // The page is gone, so it must not return.
  pusher.disconnect();
}

const commands = {
  open: (command) => {
    clients.set(command.client, new Client(command.client, command));
    for (const channel of command.channels ?? []) of(command).subscribe(channel);
  },
  subscribe: (command) => of(command).subscribe(command.channel),
  unsubscribe: (command) => of(command).pusher.unsubscribe(command.channel),
  trigger: (command) => of(command).pusher.channel(command.channel).trigger(command.event, command.data),
  join: (command) => of(command).join(command.room, command.events ?? [], command.whispers ?? []),
  listen: (command) => {
    const channel = `echo ${command.name}`;
    const say = (data) => of(command).report({ channel, event: command.event, data: plain(data) });
    of(command).echo[command.kind](command.name).listen(command.event, say);
  },
  whisper: (command) => of(command).echo.join(command.room).whisper(command.event, command.data),
  leaveRoom: (command) => of(command).echo.leave(command.room),
  signin: (command) => of(command).pusher.signin(),
  disconnect: (command) => of(command).pusher.disconnect(),
  connect: (command) => of(command).pusher.connect(),
  reload: (command) => {
    leavePage(of(command));
    commands.open(command);
  },
  leavePage: (command) => leavePage(of(command)),
  socketId: (command) => of(command).report({ event: "socket id", data: of(command).pusher.connection.socket_id }),
  staying: (command) => { staying = new Set(command.users); },
  /** What the clients count and see, of one channel. */
  tally: ({ channel }) => {
    const one = ({ pusher, mirrors, online, falseOffline }) => {
      const { members, rosters, duplicates, falseRemovals } = mirrors.get(channel);
      const object = pusher.channel(channel);
      const library = { count: object.members.count, ids: Object.keys(object.members.members).sort() };
      const isConnected = pusher.connection.state === "connected" && object.subscribed;
      const watched = { online: [...online].sort(), falseOffline };
      return { isConnected, ids: [...members.keys()].sort(), library, rosters, duplicates, falseRemovals, watched };
    };
    const followed = [...clients].filter(([, { pusher, mirrors }]) => pusher.channel(channel) && mirrors.has(channel));
    report({ tally: Object.fromEntries(followed.map(([name, client]) => [name, one(client)])) });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  commands[command.do](command);
}
process.exit();
