"""Webhooks: the libraries of Standard Webhooks verify them, and those of Pusher verify the format of Pusher. The version
checks of docs/webhooks.md work."""
import base64, hashlib, hmac, http.server, json, re, secrets, threading

import pusher
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from harness import Case, DEADLINE, ROOT, Observer, connect, wait_until

DOCUMENT = (ROOT / "docs" / "webhooks.md").read_text()


def secret():
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def documented_check():
    """The version check of the document, as a function."""
    [code] = [code for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL) if "def is_new" in code]
    names = {}
    exec(code, names)
    return names["is_new"]


class Application(http.server.BaseHTTPRequestHandler):
    """Keeps the requests that arrive, and does not answer the first one."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((dict(self.headers), body))
        if len(self.server.requests) > 1:
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_):
        pass


class Receiving(Case):
    """A test with an application that receives webhooks."""

    def setUp(self):
        self.application = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
        self.application.requests = []
        threading.Thread(target=self.application.serve_forever, daemon=True).start()
        self.addCleanup(self.application.server_close)
        self.addCleanup(self.application.shutdown)

    def url(self):
        return f"http://127.0.0.1:{self.application.server_address[1]}/hook"

    def bodies(self):
        return b"".join(body for _, body in list(self.application.requests))

    def receives(self, *events):
        """Waits for these events, which may come in several requests."""
        wait_until(lambda: f"{events}; there are {self.bodies()}",
                   lambda: all(event.encode() in self.bodies() for event in events))


class Webhooks(Receiving):
    def setUp(self):
        super().setUp()
        self.old, self.new = secret(), secret()
        file = self.folder() / "secrets"
        file.write_text(f"{self.old}\n{self.new}\n")
        server = self.server("--webhook-url", self.url(), "--webhook-secret-file", file, "--webhook-delay", "0s")
        alice = Observer(server, "alice")
        self.receives("member_joined", "room_occupied", "user_online")
        alice.close()
        self.receives("member_left", "room_vacated", "user_offline")
        self.requests = list(self.application.requests)

    def test_the_library_for_python_verifies_each_request_with_each_secret(self):
        is_new, types = documented_check(), []
        for headers, body in self.requests:
            for each in self.old, self.new:
                events = Webhook(each).verify(body, headers)["events"]
            with self.assertRaises(WebhookVerificationError):
                Webhook(secret()).verify(body, headers)
            with self.assertRaises(WebhookVerificationError):
                Webhook(self.old).verify(body + b" ", headers)
            types += [event["type"] for event in events if is_new(event)]
        first, second = [headers["webhook-id"] for headers, _ in self.requests[:2]]
        self.assertEqual(first, second, "the request that was not answered is sent again")
        self.assertEqual(sorted(types), ["member_joined", "member_left", "resync", "room_occupied", "room_vacated",
                                         "user_offline", "user_online"])

    def test_the_library_for_javascript_verifies_each_request(self):
        [check] = [code for code in re.findall(r"```js\n(.*?)```", DOCUMENT, re.DOTALL) if "function isNew" in code]
        requests = [{"headers": headers, "body": body.decode()} for headers, body in self.requests]
        program = self.node("standardwebhooks.mjs", json.dumps(
            {"secrets": [self.old, self.new], "other": secret(), "check": check, "requests": requests}))
        line = program.expect("the types", lambda line: line.startswith("{"))
        self.assertEqual(sorted(json.loads(line)["types"]), ["member_joined", "member_left", "resync", "room_occupied",
                                                             "room_vacated", "user_offline", "user_online"])


class PusherWebhooks(Receiving):
    def setUp(self):
        super().setUp()
        server = self.server("--open", "--pusher-app", "1:key:secret", "--webhook-url", self.url(), "--webhook-format",
                             "pusher", "--webhook-delay", "0s")
        with connect(f"{server.websocket}/app/key?protocol=7&client=js&version=8.6.0") as socket:
            established = json.loads(socket.recv(timeout=DEADLINE))
            socket_id, member = json.loads(established["data"])["socket_id"], json.dumps({"user_id": "7"})
            signed = hmac.new(b"secret", f"{socket_id}:presence-room:{member}".encode(), hashlib.sha256).hexdigest()
            data = {"channel": "presence-room", "auth": f"key:{signed}", "channel_data": member}
            socket.send(json.dumps({"event": "pusher:subscribe", "data": data}))
            self.receives("channel_occupied", "member_added")
        self.receives("member_removed", "channel_vacated")
        self.requests = list(self.application.requests)
        self.expected = [["channel_occupied", "presence-room", None], ["member_added", "presence-room", "7"],
                         ["member_removed", "presence-room", "7"], ["channel_vacated", "presence-room", None]]

    def check(self, bodies):
        events = [event for body in bodies for event in body["events"]]
        words = [[event.get(name) for name in ("name", "channel", "user_id")] for event in events]
        # The first request is not answered, and sent again.
        self.assertEqual([list(each) for each in dict.fromkeys(map(tuple, words))], self.expected)

    def test_the_library_for_python_verifies_each_request(self):
        bodies = []
        for headers, body in self.requests:
            headers = {name.lower(): value for name, value in headers.items()}
            signature = headers["x-pusher-signature"]
            client = pusher.Pusher(app_id="1", key="key", secret="secret")
            bodies.append(client.validate_webhook(headers["x-pusher-key"], signature, body.decode()))
            other = pusher.Pusher(app_id="1", key="key", secret="another")
            self.assertIsNone(other.validate_webhook("key", signature, body.decode()))
        self.check(bodies)

    def test_the_library_for_javascript_verifies_each_request(self):
        requests = [{"headers": {name.lower(): value for name, value in headers.items()}, "rawBody": body.decode()}
                    for headers, body in self.requests]
        program = self.node("pusher-webhook.mjs", json.dumps(requests))
        line = program.expect("the events", lambda line: line.startswith("["))
        self.check(json.loads(line))
