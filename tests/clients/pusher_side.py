"""Shared by the tests of Pusher clients: stock pusher-js and laravel-echo in Node, and applications that use the stock
libraries for Python and for Node."""
import base64, collections, http.server, itertools, json, threading, urllib.parse

import pusher
from harness import Case, DEADLINE, free_port, wait_until

APP = {"id": "1", "key": "key", "secret": "secret", "master": base64.b64encode(bytes(range(32))).decode()}
# A tally is much work for both sides, and the clients do nothing else meanwhile.
TALLY_SECONDS = 0.2
APP_FLAGS = ["--pusher-app", f"{APP['id']}:{APP['key']}:{APP['secret']},client-messages"]


class Site(http.server.ThreadingHTTPServer):
    """The HTTP server of an application, for as many clients at once as a test has. It runs from the start."""
    daemon_threads = True
    # With the default of 5, connections beyond them wait for seconds.
    request_queue_size = 1024

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class PythonApplication:
    """An application with PyPI's `pusher`. It decides as programs/pusher-application.mjs does."""

    def __init__(self, port):
        options = {"app_id": APP["id"], "key": APP["key"], "host": "127.0.0.1", "port": port, "ssl": False,
                   "encryption_master_key_base64": APP["master"], "timeout": DEADLINE}
        self.library = pusher.Pusher(secret=APP["secret"], **options)
        self.wrong = pusher.Pusher(secret="wrong", **options)
        self.http = Site(self._handler())
        self.site = self.http.url

    def _handler(application):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                user = json.loads(urllib.parse.unquote(self.headers["x-user"]))
                answer = application.authorize(self.path, form, user)
                self.send_response(200 if answer else 403)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer, default=bytes.decode).encode())

            def log_message(self, *_):
                pass
        return Handler

    def authorize(self, path, form, user):
        [socket] = form["socket_id"]
        if path.endswith("user-auth"):
            library = self.wrong if user["user_id"] == "wrong" else self.library
            more = {name: value for name, value in user.items() if name != "user_id"}
            return library.authenticate_user(socket, {"id": user["user_id"], **more})
        [channel] = form["channel_name"]
        if "forbidden" in channel:
            return None
        library = self.wrong if "wrong" in channel else self.library
        shows = channel.startswith("presence-") and not user.get("signed_in")
        return library.authenticate(channel, socket, user if shows else None)

    def trigger(self, channels, event, data, socket=None):
        return self.library.trigger(channels, event, data, socket)

    def trigger_batch(self, batch):
        return self.library.trigger_batch([dict(event) for event in batch])

    def channels(self, prefix=None, info=()):
        return self.library.channels_info(prefix, list(info))

    def channel(self, channel, info=()):
        return self.library.channel_info(channel, list(info))

    def users(self, channel):
        return self.library.users_info(channel)

    def send_to_user(self, user, event, data):
        return self.library.send_to_user(user, event, data)

    def terminate(self, user):
        return self.library.terminate_user_connections(user)

    def stop(self):
        self.http.stop()


class NodeApplication:
    """An application with npm's `pusher`."""

    def __init__(self, case, port):
        site_port = free_port()
        self.site = f"http://127.0.0.1:{site_port}"
        self.program = case.node("pusher-application.mjs", json.dumps({"app": APP, "port": port, "site": site_port}))
        self.program.expect("its port", lambda line: "listening" in line)

    def call(self, method, *arguments):
        before = len(self.program.lines)
        self.program.write(json.dumps({"call": method, "arguments": arguments}))
        wait_until(lambda: f"an answer to {method}: {self.program.text()}", lambda: len(self.program.lines) > before)
        return json.loads(self.program.lines[before])["answer"]

    def trigger(self, channels, event, data, socket=None):
        return self.call("trigger", channels, event, data, socket)

    def trigger_batch(self, batch):
        return self.call("triggerBatch", batch)

    def channels(self, prefix=None, info=()):
        params = {"filter_by_prefix": prefix, "info": ",".join(info)}
        return self.call("get", "/channels", {name: value for name, value in params.items() if value})

    def channel(self, channel, info=()):
        return self.call("get", f"/channels/{channel}", {"info": ",".join(info)} if info else {})

    def users(self, channel):
        return self.call("get", f"/channels/{channel}/users", {})

    def send_to_user(self, user, event, data):
        return self.call("sendToUser", user, event, data)

    def terminate(self, user):
        return self.call("terminateUserConnections", user)

    def stop(self):
        self.program.stop()


class Clients:
    """Stock clients in one Node process."""

    def __init__(self, case, site, port):
        self.site, self.port = site, port
        self.program = case.node("pusher-clients.mjs")

    def do(self, command, client=None, **words):
        self.program.write(json.dumps({"do": command, "client": client, **words}))

    def open(self, name, user=None, **options):
        user = {"user_id": user, "user_info": {"name": name}} if isinstance(user, str) else user
        words = {"key": APP["key"], "port": self.port, "site": self.site, "user": user, **options}
        self.do("open", name, **words)
        return Client(self, name, words)

    def reports(self):
        return [json.loads(line) for line in list(self.program.lines) if line.startswith("{")]

    def settle(self, channel, expected):
        """Waits until these clients see exactly these members, by the library's own list and by its callbacks."""
        last = {}

        def holds():
            tally = self.tally(channel)
            last.update({name: [tally[name][word] for word in ("isConnected", "ids", "library")] for name in expected})
            return all(last[name] == [True, ids, {"count": len(ids), "ids": ids}] for name, ids in expected.items())
        wait_until(lambda: f"{expected}; the clients see {last}", holds, TALLY_SECONDS)

    def tally(self, channel):
        """What each client counts and sees."""
        before = len(self.program.lines)
        self.do("tally", channel=channel)
        find = lambda: next((line for line in self.program.lines[before:] if line.startswith('{"tally"')), None)
        return json.loads(wait_until(lambda: f"a tally: {self.program.text()}", find))["tally"]


class Client:
    """One stock client. `expect` takes the reports of a channel in their order, and each once."""

    def __init__(self, clients, name, options):
        self.clients, self.name, self.options, self.taken = clients, name, options, collections.Counter()

    def __getattr__(self, command):
        return lambda **words: self.clients.do(command, self.name, **words)

    def subscribe(self, *channels):
        for channel in channels:
            self.clients.do("subscribe", self.name, channel=channel)
        return self

    def joins(self, channel):
        self.subscribe(channel)
        return self.expect("pusher:subscription_succeeded", channel)

    def is_reachable(self, application):
        """Waits until the client has subscribed to the channel of its user, and receives what the application sends."""
        user, number = self.options["user"]["user_id"], itertools.count()
        got = lambda: any(report["event"] == "probe" for report in self.reports("user"))

        def probe():
            application.send_to_user(user, "probe", {"number": next(number)})
            return got()
        wait_until(lambda: f"{self.name} receives:\n{self.clients.program.text()}", probe)

    def reload(self):
        self.clients.do("reload", self.name, **self.options)

    def reports(self, channel=None):
        reports = [report for report in self.clients.reports() if report.get("client") == self.name]
        return [report for report in reports if channel in (None, report.get("channel"))]

    def events(self, channel):
        return [(report["event"], report["data"]) for report in self.reports(channel)]

    def expect(self, event, channel=None, matches=lambda data: True):
        """Waits for the next such report after the last one that was expected, and returns its data."""
        def find():
            for at, report in enumerate(self.reports()):
                is_it = report["event"] == event and report.get("channel") == channel
                if at >= self.taken[channel] and is_it and matches(report["data"]):
                    self.taken[channel] = at + 1
                    return [report["data"]]
            if self.clients.program.child.poll() is not None:
                raise AssertionError(f"the clients have ended:\n{self.clients.program.text()}")
        return wait_until(lambda: f"{event} of {channel} for {self.name}:\n{self.clients.program.text()}", find)[0]

    def socket_id(self):
        self.clients.do("socketId", self.name)
        return self.expect("socket id")

    def connected(self):
        self.expect("state", matches=lambda state: state == "connected")
        return self


class PusherCase(Case):
    """A server with one application, which is either of the libraries, and its clients."""
    # More options of the application.
    OPTIONS = []

    def start(self, kind="python", ttl="30s", grace="30s", flags=()):
        flag, app = APP_FLAGS
        self.rollcall = self.server(flag, ",".join([app, *self.OPTIONS]), "--ttl", ttl, "--grace", grace, *flags)
        self.application = self.start_application(kind, self.rollcall.port)
        self.clients = Clients(self, self.application.site, self.rollcall.port)

    def start_application(self, kind, port):
        if kind == "node":
            return NodeApplication(self, port)
        application = PythonApplication(port)
        self.addCleanup(application.stop)
        return application

    def members(self, channel):
        return sorted(user["id"] for user in self.application.users(channel)["users"])
