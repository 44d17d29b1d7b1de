"""Shared by the tests of monitoring: a server with everything that has metrics, clients that keep it busy, and a real
Prometheus."""
import asyncio, base64, contextlib, http.server, itertools, json, secrets, ssl, subprocess, threading, urllib.error
import urllib.parse, urllib.request

from harness import (BASE_FLAGS, BINARY, Case, DEADLINE, DEFAULT_TIMES, POLL_SECONDS, Program, accepts, free_port,
                     wait_until)
from pusher_side import Site
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

APP = "1:app-key:app-secret,client-messages"
READ_KEY = "the key of the monitoring"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes webhooks, and publishes a key set."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.key_set)

    def log_message(self, *_):
        pass


class Monitored:
    """A server whose metrics are read without a key, at an address of their own."""

    def __init__(self, *flags):
        self.port, self.internal, self.flags = free_port(), free_port(), [str(flag) for flag in flags]
        self.start()

    def start(self):
        listen = ["--listen", f"127.0.0.1:{self.port}", "--internal-listen", f"127.0.0.1:{self.internal}"]
        self.program = Program(BINARY, *listen, *BASE_FLAGS, *DEFAULT_TIMES, *self.flags)
        self.program.expect("the address", lambda line: f"127.0.0.1:{self.port}" in line and "://" in line)
        wait_until(lambda: self.program.text(), lambda: accepts(self.internal))

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.internal}{path}", timeout=DEADLINE) as answer:
            return answer.read().decode()

    def metrics(self):
        return self.get("/metrics")

    def sample(self, name):
        """The value of a sample, named as in the text: with its labels."""
        lines = [line for line in self.metrics().splitlines() if line.startswith(name + " ")]
        return float(lines[0].split(" ")[1]) if lines else None

    def stop(self):
        return self.program.stop()


class Load:
    """Clients over TLS: members who join, change their state, send messages, leave and come back, a Pusher client, and
    clients that are refused. They share one thread, because Python's `ssl` allows no two threads on one connection."""

    MEMBERS = 4

    def __init__(self, port, certificate):
        self.context = ssl.create_default_context(cafile=certificate)
        self.port, self.rounds, self.is_stopping = port, itertools.count(), False
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)
        self.thread.start()

    async def run(self):
        members = [self.repeat(self.member, number) for number in range(self.MEMBERS)]
        await asyncio.gather(*members, self.repeat(self.pusher_client), self.repeat(self.refused))

    async def repeat(self, act, *arguments):
        # The server may be stopping.
        ended = (OSError, TimeoutError, WebSocketException)
        while not self.is_stopping:
            with contextlib.suppress(*ended):
                await act(*arguments)
            await asyncio.sleep(POLL_SECONDS)

    def connect(self, path, **options):
        return connect(f"wss://localhost:{self.port}{path}", ssl=self.context, open_timeout=DEADLINE, **options)

    async def member(self, number):
        async with self.connect(f"/v1/connect?user=member-{number}", subprotocols=["presence.v1"]) as socket:
            for message in [{"type": "join", "room": "lobby"}, {"type": "heartbeat"}, {"type": "nonsense"},
                            {"type": "state", "room": "lobby", "state": {"round": next(self.rounds)}},
                            {"type": "message", "room": "lobby", "data": {"a": 1}}]:
                await socket.send(json.dumps(message))
                await asyncio.sleep(0.1)
            await socket.send(json.dumps({"type": "leave", "room": "lobby"}))

    async def pusher_client(self):
        async with self.connect("/app/app-key?protocol=7") as socket:
            for event, data in [("pusher:subscribe", {"channel": "news"}), ("client-a", "x")]:
                await socket.send(json.dumps({"event": event, "data": data, "channel": "news"}))
            await asyncio.sleep(0.2)

    async def refused(self):
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.context)
        request = "GET /v1/rooms HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer a key that is wrong\r\n\r\n"
        writer.write(request.encode())
        await reader.readline()
        writer.close()
        await asyncio.sleep(0.1)

    def stop(self):
        self.is_stopping = True
        self.thread.join(DEADLINE)


class Prometheus:
    """A Prometheus that reads these targets once per second, with rules if there are any."""

    def __init__(self, folder, targets, *rules):
        self.port = free_port()
        config = {
            # A busy machine must have time to answer.
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "250ms"},
            "rule_files": [str(rule) for rule in rules],
            "scrape_configs": [{"job_name": "rollcall", "static_configs": [{"targets": targets}]}],
        }
        # JSON is YAML.
        (folder / "prometheus.yaml").write_text(json.dumps(config))
        self.program = Program(
            "prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn")
        wait_until(lambda: self.program.text(), self.is_ready)

    def is_ready(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=DEADLINE).close() is None

    def api(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error

    def query(self, query):
        return self.api("query", query=query)["result"]

    def firing(self, name):
        """The alerts of this name that fire."""
        alerts = self.api("alerts")["alerts"]
        return [alert for alert in alerts if (alert["labels"]["alertname"], alert["state"]) == (name, "firing")]

    def stop(self):
        return self.program.stop()


class MonitoringCase(Case):
    """A test with a server that has all metrics."""

    def certificate(self, folder):
        paths = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-days", "90", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-keyout", paths[1], "-out", paths[0]], check=True, capture_output=True)
        return paths

    def application(self):
        site = self.stopped_later(Site(Receiver))
        site.key_set = json.dumps({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": "1",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        }]}).encode()
        return site

    def monitored(self, *flags):
        return self.stopped_later(Monitored(*flags))

    def loaded(self, redis_port, *flags):
        """A server with Redis, webhooks, a Pusher application and TLS, and clients that keep it busy."""
        folder, site = self.folder(), self.application()
        certificate, key = self.certificate(folder)
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        server = self.monitored(
            "--open", "--redis", f"redis://127.0.0.1:{redis_port}", "--tls-cert", certificate, "--tls-key", key,
            "--pusher-app", APP, "--webhook-url", f"{site.url}/hook", "--webhook-secret", secret,
            "--webhook-delay", "0s", "--read-key", READ_KEY, "--max-memory", "4G",
            "--event-log", folder / "events", *flags)
        self.stopped_later(Load(server.port, certificate))
        return server

    def prometheus(self, servers, *rules):
        targets = [f"127.0.0.1:{server.internal}" for server in servers]
        return self.stopped_later(Prometheus(self.folder(), targets, *rules))
