"""The proxy configurations of docs/, each in its real proxy in front of two nodes.

WebSockets pass, are distributed, and survive the stop of a node. Without Redis the nodes do not know each other, so the
members of each node show which clients are connected to it.
"""
import contextlib, csv, json, re, signal, socket, ssl, subprocess, urllib.error, urllib.request
from harness import (BASE_FLAGS, BINARY, Case, DEADLINE, DEFAULT_TIMES, ROOT, USAGE, accepts, connect, free_port, get_json,
                     is_ready, wait_until)
from websockets.exceptions import ConnectionClosedError

CLIENTS = 6


def adapted(name, nodes):
    """The documented configuration with the addresses of these nodes, which may be fewer than it names."""
    text = (ROOT / "docs" / name).read_text()
    names = re.findall(r"node\d:8000", text)
    for name in names[len(nodes):]:
        text = re.sub(rf"^ *server .*{name}.*\n", "", text, flags=re.MULTILINE)
    for documented, node in zip(names, nodes, strict=False):
        text = text.replace(documented, f"127.0.0.1:{node.port}")
    assert not re.search(r"node\d:8000", text), text
    return text


class Proxies(Case):
    def nginx(self, nodes, change=lambda text: text):
        port, folder = free_port(), self.folder()
        text = change(adapted("nginx.conf", nodes))
        self.assertIn("listen 80;", text)
        # Folders that an ordinary user can write to.
        own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        text = text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("http {", f"http {{\n{own}", 1)
        file = folder / "nginx.conf"
        file.write_text(f"pid {folder}/nginx.pid;\nerror_log stderr;\n{text}")
        command = ["/usr/sbin/nginx", "-p", folder, "-e", "stderr", "-c", file]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        return port, self.program(*command, "-g", "daemon off;")

    def haproxy(self, nodes, change=lambda text: text, name="haproxy.cfg", bind="bind :80\n"):
        port, folder = free_port(), self.folder()
        text = change(adapted(name, nodes))
        self.assertIn(bind, text)
        file = folder / "haproxy.cfg"
        # A node or a proxy that gets no CPU for seconds must not count as down. One that is down refuses connections.
        text = text.replace("defaults\n", "defaults\n    timeout check 60s\n", 1)
        text = text.replace("timeout connect 2s", "timeout connect 60s")
        text = text.replace("inter 1s", "inter 5s fastinter 1s downinter 1s")
        self.assertIn("downinter", text)
        text = f"global\n    stats socket {folder}/admin mode 600\n{text}"
        file.write_text(text.replace(bind, f"bind 127.0.0.1:{port}\n"))
        checked = subprocess.run(["/usr/sbin/haproxy", "-c", "-f", file], capture_output=True, text=True)
        self.assertEqual((checked.returncode, "WARNING" in checked.stderr), (0, False), checked.stderr)
        return port, self.program("/usr/sbin/haproxy", "-db", "-f", file)

    def wait_until_nodes_are_checked(self, proxy):
        """Waits until HAProxy has found each node ready."""
        admin = proxy.command[-1].replace("haproxy.cfg", "admin")

        def results():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(admin)
                client.sendall(b"show stat\n")
                rows = csv.DictReader(client.makefile().read().removeprefix("# ").splitlines())
                return {row["svname"]: (row["status"], row["check_status"].removeprefix("* "))
                        for row in rows if row["svname"].startswith("node")}
        wait_until(lambda: f"nodes that are ready: {results()}\n{proxy.text()}",
                   lambda: set(results().values()) == {("UP", "L7OK")})
        self.assertNotIn("DOWN", proxy.text())

    def check(self, start):
        nodes = [self.server(*DEFAULT_TIMES) for _ in range(2)]
        port, proxy = start(nodes)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        url = f"http://127.0.0.1:{port}"
        wait_until("a ready node", lambda: is_ready(url))
        with self.assertRaises(urllib.error.HTTPError) as hidden:
            get_json(f"{url}/metrics")
        self.assertEqual(hidden.exception.code, 404)
        hidden.exception.close()

        # WebSockets pass and are distributed.
        def enter(number):
            return self.observer(None, f"user{number}", websocket=f"ws://127.0.0.1:{port}")
        clients = [enter(number) for number in range(CLIENTS)]
        members = {node: self.members(node) for node in nodes}
        self.assertEqual([len(on_node) for on_node in members.values()], [CLIENTS // 2] * 2)
        # Changes on a node reach its clients.
        for node, on_node in members.items():
            with contextlib.closing(self.observer(node, f"on-{node.port}")):
                for client in clients:
                    if {"user": client.messages[0]["user"]} in on_node:
                        client.sees(f"on-{node.port}")

        # A node stops: its clients are closed with 1012 and can connect to the other node. No request fails meanwhile.
        stopping, staying = nodes
        stopping.stop()
        gone = [client for client in clients if {"user": client.messages[0]["user"]} in members[stopping]]
        for client in gone:
            wait_until("a close code", lambda: client.close_code)
            self.assertEqual(client.close_code, 1012)
        back = [enter(100 + number) for number in range(CLIENTS)]
        for _ in range(10):
            self.assertEqual(get_json(f"{url}/livez"), {"status": "ok"})
        online = [member["user"] for member in self.members(staying)]
        self.assertLessEqual({client.messages[0]["user"] for client in back}, set(online))
        self.assertEqual([client.close_code for client in clients if client not in gone], [None] * (CLIENTS // 2))

        # The node starts again. It has the fewest clients, so the next ones connect to it.
        stopping.start()

        def used_again():
            enter(200)
            return get_json(f"{stopping.http}/v1/rooms/lobby/count")["count"] > 0
        wait_until("clients on the restarted node", used_again)

    def members(self, node):
        return get_json(f"{node.http}/v1/rooms/lobby/members")["members"]

    def test_nginx(self):
        self.check(self.nginx)

    def test_haproxy(self):
        self.check(self.haproxy)

    def test_the_plain_check_of_haproxy_finds_nodes_ready_and_notices_a_stop_before_they_refuse_clients(self):
        def plain(text):
            without = re.sub(r"^ *http-check .*\n", "", text, flags=re.MULTILINE)
            self.assertIn("option httpchk\n", without)
            return without
        nodes = [self.server(*DEFAULT_TIMES, "--drain-delay", "10m") for _ in range(2)]
        port, proxy = self.haproxy(nodes, plain)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        self.wait_until_nodes_are_checked(proxy)
        stopping, staying = nodes
        stopping.program.child.send_signal(signal.SIGTERM)
        proxy.expect("the node", lambda line: "rollcall/node1 is DOWN" in line)
        self.assertTrue(accepts(stopping.port), "it still accepts the clients that the proxy sends meanwhile")
        for _ in range(5):
            self.assertNotIn("draining", self.readiness(port))
        # Nobody waits for the delay.
        for node in nodes:
            node.program.child.kill()

    def readiness(self, port):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=DEADLINE) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.read().decode()

    def test_below_a_path_prefix_that_nginx_removes(self):
        def prefixed(text):
            text = text.replace("location / {", "location /presence/ {")
            return text.replace("proxy_pass http://rollcall;", "proxy_pass http://rollcall/;")
        node = self.server(*DEFAULT_TIMES)
        port, proxy = self.nginx([node, node], prefixed)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        url = f"http://127.0.0.1:{port}/presence"
        with contextlib.closing(self.observer(None, "alice", websocket=url.replace("http", "ws"))) as alice:
            alice.sees("alice")
            self.assertEqual(get_json(f"{url}/v1/rooms/lobby/count")["count"], 1)
        # A redirect stays below the prefix.
        self.assertEqual(get_json(f"{url}/livez/"), {"status": "ok"})
        with urllib.request.urlopen(f"{url}/presence.js", timeout=DEADLINE) as script:
            self.assertIn("javascript", script.headers["content-type"])

    def check_proxy_protocol(self, is_encrypted, version):
        folder, node = self.folder(), type("Node", (), {"port": free_port()})
        flags = ["--proxy-protocol", "--trust-proxy", "127.0.0.1", "--connections-per-address", "2"]
        if is_encrypted:
            certificate, key = folder / "certificate", folder / "key"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                            "-nodes", "-days", "30", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
                           check=True, capture_output=True)
            flags += ["--tls-cert", certificate, "--tls-key", key]
        listen = ["--listen", f"127.0.0.1:{node.port}"]
        server = self.program(BINARY, *listen, *BASE_FLAGS, *DEFAULT_TIMES, *flags)
        server.expect("the address", lambda line: f"://127.0.0.1:{node.port}" in line)

        def changed(text):
            self.assertIn(" send-proxy-v2 check check-send-proxy check-ssl verify none ", text)
            text = text.replace(" send-proxy-v2 ", f" {version} ")
            return text if is_encrypted else text.replace(" check-ssl verify none ", " ")
        port, proxy = self.haproxy([node, node], changed, "haproxy-tcp.cfg", "bind :443\n")
        context = ssl._create_unverified_context() if is_encrypted else None
        secure = "s" if is_encrypted else ""
        url = f"http{secure}://127.0.0.1:{port}"

        def get(path):
            with urllib.request.urlopen(f"{url}{path}", timeout=DEADLINE, context=context) as answer:
                return json.load(answer)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        self.assertEqual(get("/livez"), {"status": "ok"})
        self.wait_until_nodes_are_checked(proxy)

        # Clients have the addresses that they have for the proxy, and the limits of these.
        def enter(source, user):
            sock = socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0))
            url = f"ws{secure}://127.0.0.1:{port}/v1/connect?user={user}"
            client = self.enterContext(connect(url, sock=sock, ssl=context))
            try:
                return json.loads(client.recv(DEADLINE))["type"]
            except ConnectionClosedError as error:
                return error.rcvd.code
        for source in ["127.0.0.1", "127.0.0.5", "127.0.0.6"]:
            entered = [enter(source, f"{source}-{number}") for number in range(3)]
            self.assertEqual(entered, ["welcome", "welcome", 1013], source)

        # Nobody reaches the node without a header, except for its own health command, which sends one.
        with socket.create_connection(("127.0.0.1", node.port), DEADLINE) as direct:
            direct.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(direct.recv(1024), b"")
        # It gives up after three seconds, and the node may get no CPU for that time.
        command = [str(word) for word in [BINARY, *listen, *flags, "health"]]
        health = lambda: subprocess.run(command, capture_output=True)
        wait_until(lambda: f"a healthy node: {health().stderr}", lambda: health().returncode == 0)

    def test_haproxy_with_proxy_headers_in_front_of_tls(self):
        self.check_proxy_protocol(True, "send-proxy-v2")

    def test_haproxy_with_proxy_headers_of_each_version(self):
        for version in ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"]:
            with self.subTest(version):
                self.check_proxy_protocol(False, version)

    def test_timeouts_are_longer_than_the_ping_interval(self):
        ping = int(re.search(r"--ping-interval.*?\[default: (\d+)s\]", USAGE, re.DOTALL).group(1))
        for name, setting in [("nginx.conf", "proxy_read_timeout"), ("haproxy.cfg", "timeout tunnel"),
                              ("haproxy-tcp.cfg", "timeout client"), ("haproxy-tcp.cfg", "timeout server")]:
            text = (ROOT / "docs" / name).read_text()
            self.assertGreaterEqual(int(re.search(rf"{setting}\s+(\d+)s", text).group(1)), 2 * ping, name)
