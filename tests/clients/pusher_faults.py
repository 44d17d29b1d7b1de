"""Faults under stock pusher-js clients, for test_faults_native.py and test_faults_pusher.py. There are three nodes, Redis,
HAProxy, and an application that receives webhooks.

Nodes are killed and restarted, Redis goes away, pages are reloaded. Meanwhile some users leave and others come. No client
may see a user leave or go offline who stays, or a user come who is there. At the end every client, every node and the
copy that the application keeps from webhooks have the same members.

Variables: FAULTS_ROUNDS (1) repeats each fault, FAULTS_OUTAGE (5) is how long Redis is away, in seconds.
"""
import base64, http.server, json, os, secrets, signal, threading, time

import pusher, pusher.errors
import test_proxy
from harness import DEADLINE, Program, accepts, free_port, wait_until
from pusher_side import APP, APP_FLAGS, TALLY_SECONDS, Clients, PythonApplication, Site
from standardwebhooks.webhooks import Webhook
from test_webhooks import documented_check

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", 1))
OUTAGE_SECONDS = float(os.environ.get("FAULTS_OUTAGE", 5))
ROOM = "presence-room"
# The last six clients are second tabs.
CLIENTS, USERS, MOVERS = 60, 54, 6
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


class Receiver:
    """An application that keeps a copy of the channels' members from webhooks alone."""

    def __init__(self, read_members):
        self.read_members, self.members, self.occupied = read_members, {}, set()
        self.lock, self.is_new, self.failure = threading.Lock(), documented_check(), None
        self.http = Site(self._handler())
        self.url = f"{self.http.url}/hook"

    def _handler(receiver):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    with receiver.lock:
                        receiver.receive(headers, body)
                    status = 204
                except (OSError, pusher.errors.PusherBadStatus):
                    # The members could not be read now: a node stopped before it answered, and the proxy says 502. The
                    # request comes again.
                    status = 503
                except Exception as error:
                    receiver.failure, status = error, 500
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass
        return Handler

    def put(self, channel, user, is_member):
        members = self.members.setdefault(channel, set())
        members.add(user) if is_member else members.discard(user)

    def stop(self):
        self.http.stop()


class NativeReceiver(Receiver):
    FLAGS = ["--webhook-secret", SECRET]

    def receive(self, headers, body):
        for event in Webhook(SECRET).verify(body, headers)["events"]:
            if self.is_new(event):
                self.apply(event)

    def apply(self, event):
        channel = event.get("channel")
        match event["type"]:
            case "member_joined" | "member_updated":
                self.put(channel, event["user"], True)
            case "member_left":
                self.put(channel, event["user"], False)
            case "room_occupied":
                self.occupied.add(channel)
            case "room_vacated":
                self.occupied.discard(channel)
            case "resync":
                for name in [channel] if channel else [ROOM]:
                    self.members[name] = set(self.read_members(name))
                    (self.occupied.add if self.members[name] else self.occupied.discard)(name)


class PusherReceiver(Receiver):
    FLAGS = ["--webhook-format", "pusher"]
    library = pusher.Pusher(app_id=APP["id"], key=APP["key"], secret=APP["secret"])

    def receive(self, headers, body):
        request = self.library.validate_webhook(headers["x-pusher-key"], headers["x-pusher-signature"], body)
        for event in request["events"]:
            match event["name"]:
                case "member_added" | "member_removed":
                    self.put(event["channel"], event["user_id"], event["name"] == "member_added")
                case "channel_occupied":
                    self.occupied.add(event["channel"])
                case "channel_vacated":
                    self.occupied.discard(event["channel"])


class Redis:
    """A Redis server without persistence: after a kill, an empty one takes its place."""

    def __init__(self, folder):
        self.folder, self.port, self.program = folder, free_port(), None
        self.start()

    def start(self):
        no_persistence = ["--save", "", "--appendonly", "no"]
        address = ["--port", self.port, "--bind", "127.0.0.1"]
        self.program = Program("redis-server", *address, *no_persistence, cwd=self.folder)
        wait_until(lambda: f"Redis: {self.program.text()}", lambda: accepts(self.port))

    def go(self, how):
        if how == "killed":
            self.stop()
        else:
            self.program.child.send_signal(signal.SIGSTOP)

    def come_back(self):
        if self.program.child.poll() is None:
            self.program.child.send_signal(signal.SIGCONT)
        else:
            self.start()

    def stop(self):
        self.program.stop(signal.SIGKILL)


class Faults:
    """The test, for either format of webhooks."""

    def setUp(self):
        self.redis, self.proxy_port = self.stopped_later(Redis(self.folder())), None
        self.receiver = self.stopped_later(self.RECEIVER(lambda channel: self.users_of(self.proxy_port, channel)))
        redis = ["--redis", f"redis://127.0.0.1:{self.redis.port}", "--redis-partitions", "4"]
        webhooks = ["--webhook-url", self.receiver.url, "--webhook-delay", "500ms", *self.RECEIVER.FLAGS]
        # Within the lease all clients of a node must be back: they share one process, and may get little CPU.
        shared = [*APP_FLAGS, *redis, *webhooks, "--ttl", "40s"]
        self.nodes = [self.server(*shared, "--node-id", f"node{number}") for number in (1, 2, 3)]
        self.proxy_port, proxy = test_proxy.Proxies.haproxy(self, self.nodes)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(self.proxy_port))
        self.application = self.stopped_later(PythonApplication(self.proxy_port))
        self.clients = Clients(self, self.application.site, self.proxy_port)
        users = [str(number % USERS) for number in range(CLIENTS)]
        # Each has signed in and watches all.
        options = {"signedIn": True, "quiet": True, "channels": [ROOM]}
        self.watchlist = sorted(set(users))
        self.staying = [self.clients.open(f"client{number}", {"user_id": user, "watchlist": self.watchlist}, **options)
                        for number, user in enumerate(users)]
        self.movers = [self.clients.open(f"mover{number}", f"mover{number}", quiet=True) for number in range(MOVERS)]
        self.members = set(users)
        wait_until("all users online for all", self.all_are_online, TALLY_SECONDS)
        self.clients.do("staying", users=self.watchlist)
        self.move(range(MOVERS // 2))
        self.check()

    def users_of(self, port, channel):
        if port is None:
            raise OSError("nothing is there yet")
        options = {"app_id": APP["id"], "key": APP["key"], "secret": APP["secret"], "host": "127.0.0.1", "port": port}
        library = pusher.Pusher(ssl=False, timeout=DEADLINE, **options)
        return [user["id"] for user in library.users_info(channel)["users"]]

    def all_are_online(self):
        tally = self.clients.tally(ROOM)
        return all(tally[client.name]["watched"]["online"] == self.watchlist for client in self.staying)

    def move(self, numbers):
        """Each of these users joins, or leaves."""
        for mover in (self.movers[number] for number in numbers):
            if mover.name in self.members:
                mover.unsubscribe(channel=ROOM)
                self.members.discard(mover.name)
            else:
                mover.subscribe(ROOM)
                self.members.add(mover.name)

    def check(self, dead=None):
        """All see the same members in the end, and nobody was told anything false on the way."""
        members = sorted(self.members)
        joined = [mover.name for mover in self.movers if mover.name in self.members]
        self.clients.settle(ROOM, {name: members for name in [*(client.name for client in self.staying), *joined]})
        for node in [node for node in self.nodes if node is not dead]:
            seen = lambda: sorted(self.users_of(node.port, ROOM))
            wait_until(lambda: f"{members} on {node.flags[-1]}; it has {seen()}", lambda: seen() == members)
        copy = lambda: (sorted(self.receiver.members.get(ROOM, [])), sorted(self.receiver.occupied))
        wait_until(lambda: f"{members}; the copy of the application is {copy()}", lambda: copy() == (members, [ROOM]))
        self.assertIsNone(self.receiver.failure)
        for name, tally in self.clients.tally(ROOM).items():
            wrong = (tally["falseRemovals"], tally["duplicates"], tally["watched"]["falseOffline"])
            self.assertEqual(wrong, ([], [], []), name)
        wait_until("all users online for all", self.all_are_online, TALLY_SECONDS)

    def test_reloads_restarts_an_outage_of_redis_and_deaths_of_nodes(self):
        for number in range(ROUNDS):
            self.reload_pages()
            self.redis_goes_away(number)
            self.restart_all_nodes_in_turn(number)
            self.kill(self.nodes[number % len(self.nodes)])

    def reload_pages(self):
        for client in self.staying[::2]:
            client.reload()
        self.move(range(MOVERS))
        for client in self.staying[1::2]:
            client.reload()
        self.check()

    def redis_goes_away(self, number):
        self.redis.go(self.REDIS_GOES[number % 2])
        self.move(range(MOVERS))
        time.sleep(OUTAGE_SECONDS)
        self.move([number % MOVERS])
        self.redis.come_back()
        self.check()

    def restart_all_nodes_in_turn(self, number):
        for node in self.nodes:
            self.move([number % MOVERS, (number + MOVERS // 2) % MOVERS])
            node.stop()
            node.start()
            self.check()

    def kill(self, node):
        """pusher-js gives up a transport that was cut twice within minutes: pages are reloaded before the next death."""
        node.program.stop(signal.SIGKILL)
        # Some of them leave while their node is dead.
        self.move(range(MOVERS))
        self.check(dead=node)
        node.start()
