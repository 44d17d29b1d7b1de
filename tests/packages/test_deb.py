"""The Debian package: lintian, installation, the service, an upgrade of two nodes, removal."""
import contextlib, os, pathlib, re, shutil, ssl, subprocess, tempfile, threading, unittest

from websockets.exceptions import ConnectionClosedError, WebSocketException

from harness import BINARY, Case, DEADLINE, Observer, ROOT, wait_until
from machine import Machine, UNIT

# scripts/packages-test has built it.
PACKAGE = pathlib.Path(os.environ.get("PACKAGE", "unset"))
# The files that operators change, with their checksums. With another text, an upgrade would ask which one to keep, and
# would fail without a terminal: what changes belongs into other files.
CONFIGURATION = {"/etc/default/rollcall": "caf0264fc94cd7b922c7e68f195ad187", "/etc/rollcall/rollcall.toml": "937987d3caa0b578714514c0c39d1a2c"}
TEMPLATE = "/usr/share/doc/rollcall/rollcall.toml.example"
USERS = [f"user-{number}" for number in range(6)]


def build_next(folder):
    """The package of a later version, with another template of the settings."""
    files, built = folder / "next", folder / "next.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", PACKAGE, files], check=True)
    control, settings = files / "DEBIAN/control", (ROOT / "deploy/rollcall.toml").read_text()
    control.write_text(re.sub(r"^Version: .*$", "Version: 99.0-1", control.read_text(), flags=re.MULTILINE))
    for path in files.rglob("*.toml*"):
        # Wherever the package has it.
        if path.read_text() == settings:
            path.write_text(settings + "\n# Another help text\n")
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", "-z1", files, built], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(files)
    return built


def setUpModule():
    global NEXT_PACKAGE
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    NEXT_PACKAGE = build_next(pathlib.Path(folder.name))


class Roaming:
    """A user in the lobby who reconnects to the next node whenever a node closes the connection."""

    def __init__(self, case, user, nodes):
        self.user, self.nodes, self.observers, self.ended = user, nodes, [], threading.Event()
        self.connect()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        case.addCleanup(self.close)

    def connect(self):
        def attempt():
            if self.ended.is_set():
                return self.observers[-1]
            self.nodes.append(self.nodes.pop(0))
            # A node that stops refuses clients in one way or another.
            with contextlib.suppress(OSError, WebSocketException, AssertionError):
                return Observer(None, self.user, websocket=self.nodes[0].http.replace("http", "ws"))
        observer = wait_until(f"a node for {self.user}", attempt)
        if observer not in self.observers:
            self.observers.append(observer)

    def run(self):
        while not self.ended.is_set():
            self.observers[-1].reader.join(0.05)
            if not self.observers[-1].reader.is_alive() and not self.ended.is_set():
                self.observers[-1].close()
                self.connect()

    @property
    def members(self):
        return set(self.observers[-1].members)

    def changes(self):
        """The users whose joins and leaves this user has seen on all its connections."""
        diffs = [message for observer in self.observers for message in observer.messages if message["type"] == "diff"]
        return [(kind, member["user"]) for diff in diffs for kind in ("joined", "left") for member in diff.get(kind, [])]

    def close(self):
        """Call it before the nodes stop: the thread would take their end for a restart and reconnect."""
        self.ended.set()
        self.thread.join(DEADLINE)
        self.observers[-1].close()


class Package(Case):
    def machine(self, **variables):
        machine = Machine(self)
        machine.install(PACKAGE)
        machine.set_variables(ROLLCALL_LISTEN=f"127.0.0.1:{machine.port}", ROLLCALL_TTL="60s", ROLLCALL_TICK="50ms",
                              ROLLCALL_HEADER_TIMEOUT="2m", ROLLCALL_DRAIN="10s", ROLLCALL_WORKERS="2", **variables)
        return machine

    def test_the_package_has_the_version_of_the_program_and_the_licences(self):
        version = subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout.split()[1]
        field = subprocess.run(["dpkg-deb", "--field", PACKAGE, "Version"], capture_output=True, text=True).stdout
        self.assertEqual(field, f"{version}-1\n")
        machine = self.machine()
        for name in "copyright", "THIRD_PARTY_LICENSES.gz", "changelog.gz", "docs/packages.md":
            self.assertTrue(machine.path(f"/usr/share/doc/rollcall/{name}").exists(), name)
        for text in "the Rust standard library", "tokio 1.":
            self.assertIn(text, machine.run("zcat", "/usr/share/doc/rollcall/THIRD_PARTY_LICENSES.gz"))

    def test_lintian_finds_nothing(self):
        command = ["lintian", "--fail-on", "error,warning", PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_systemd_accepts_the_unit_and_rates_it_as_safe(self):
        machine = Machine(self)
        machine.install(PACKAGE)
        manual = "yes" if machine.path("/usr/bin/man").exists() else "no"
        self.assertEqual(machine.run("systemd-analyze", "verify", f"--man={manual}", UNIT), "")
        # The exposure is at most 2.0 of 10.
        machine.run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", UNIT)
        with self.assertRaises(AssertionError):
            machine.run("systemd-analyze", "security", "--offline=true", "--threshold=10", "--no-pager", UNIT)
        # No end is final: exit code 64 may come from a name server that does not answer yet.
        self.assertEqual((machine.setting("Restart"), machine.setting("StartLimitIntervalSec")), ("always", "0"))
        self.assertNotIn("RestartPreventExitStatus", machine.path(str(UNIT)).read_text())

    def test_the_texts_of_the_configuration_files_never_change(self):
        machine = Machine(self)
        machine.install(PACKAGE)
        files = machine.run("dpkg-query", "--show", "--showformat=${Conffiles}", "rollcall").split()
        self.assertEqual(dict(zip(files[::2], files[1::2])), CONFIGURATION)

    def test_the_template_is_complete_and_the_settings_state_its_path(self):
        machine = Machine(self)
        machine.install(PACKAGE)
        self.assertEqual(machine.path(TEMPLATE).read_text(), machine.run("rollcall", "config"))
        self.assertIn(TEMPLATE, machine.path("/etc/rollcall/rollcall.toml").read_text())
        self.assertIn("settings are valid", machine.run("rollcall", "check", "--config", "/etc/rollcall/rollcall.toml"))

    def test_files_of_the_operator_keep_their_group_after_a_purge(self):
        machine = self.machine()
        machine.path("/etc/rollcall/secret").write_text("the secret of the application\n")
        machine.run("chgrp", "rollcall", "/etc/rollcall/secret")
        machine.run("dpkg", "--purge", "rollcall")
        # A group that is made later must not get its number.
        self.assertEqual(machine.run("stat", "--format=%G", "/etc/rollcall/secret"), "rollcall\n")
        machine.install(PACKAGE)

    def test_purge_leaves_no_files(self):
        machine = Machine(self)
        before = machine.changes()
        machine.install(PACKAGE)
        self.assertIn("/usr/bin/rollcall", machine.changes())
        enabled = machine.path("/etc/systemd/system/multi-user.target.wants/rollcall.service")
        self.assertEqual(os.readlink(enabled), str(UNIT).replace("/usr/lib", "/lib"))
        (machine.path("/var/log/rollcall")).mkdir()
        (machine.path("/var/log/rollcall/events.jsonl")).write_text("{}\n")
        machine.run("dpkg", "--remove", "rollcall")
        for name in CONFIGURATION:
            self.assertTrue(machine.path(name).exists(), "removing a package keeps its settings")
        machine.run("dpkg", "--purge", "rollcall")
        self.assertEqual(machine.changes() - before, set())

    def test_the_service_works_without_privileges_and_with_the_filter_of_its_unit(self):
        machine = self.machine(ROLLCALL_LOG="debug")
        with open(machine.path("/etc/rollcall/rollcall.toml"), "a") as file:
            file.write("history = 7\n")
        server = machine.start()
        self.assertIn("history=7 (/etc/rollcall/rollcall.toml", server.text())
        wait_until("a ready node", machine.is_ready)
        observer = self.observer(None, "alice", websocket=machine.http.replace("http", "ws"))
        observer.sees("alice")
        process = machine.process()
        user = machine.run("id", "--user", "rollcall").strip()
        self.assertEqual(set(process["Uid"].split()), {user})
        # CAP_NET_BIND_SERVICE is bit 10.
        self.assertEqual({process[name] for name in ("CapAmb", "CapBnd", "CapEff")}, {f"{1 << 10:016x}"})
        self.assertEqual((process["Seccomp"], process["NoNewPrivs"]), ("2", "1"))
        self.assertRegex(machine.limits(), rf"Max open files +(\d+) +\1 ")
        self.assertEqual(machine.stop(), 0)
        self.assertNotRegex(server.text(), "(?i)not permitted|WARN|ERROR")

    def test_a_reload_reads_the_certificate_again_and_the_event_log_can_be_written(self):
        machine = self.machine(ROLLCALL_TLS_CERT="/etc/rollcall/cert.pem", ROLLCALL_TLS_KEY="/etc/rollcall/key.pem",
                               ROLLCALL_EVENT_LOG="/var/log/rollcall/events.jsonl")
        def certify(name):
            files = [f"/etc/rollcall/{file}" for file in ("cert.pem", "key.pem")]
            machine.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                        f"/CN={name}", "-days", "2", "-out", files[0], "-keyout", files[1])
            machine.run("chgrp", "rollcall", *files)
            machine.run("chmod", "640", *files)
            return ssl.PEM_cert_to_DER_cert(machine.path(files[0]).read_text())
        served = lambda: ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", machine.port), timeout=DEADLINE))
        first = certify("first")
        machine.start()
        self.assertEqual(served(), first)
        self.assertEqual(machine.process()["Umask"], "0027")
        second = certify("second")
        machine.reload()
        wait_until("the new certificate", lambda: served() == second)
        self.assertEqual(machine.stop(), 0)
        self.assertTrue(machine.path("/var/log/rollcall/events.jsonl").exists())

    def test_the_example_for_secrets_passes_a_file_of_root_to_the_service(self):
        (drop_in,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs/packages.md").read_text(), re.DOTALL)
        machine = self.machine()
        secret = machine.path("/etc/rollcall/jwt-secret.txt")
        secret.write_text("the secret of the application in this test\n")
        secret.chmod(0o600)
        folder = machine.path(f"/etc/systemd/system/{UNIT.name}.d")
        folder.mkdir()
        (folder / "override.conf").write_text(drop_in)
        machine.start()
        with self.assertRaisesRegex(ConnectionClosedError, "a token is required"):
            self.observer(None, "alice", websocket=machine.http.replace("http", "ws"))

    def test_an_upgrade_of_two_nodes_shows_no_leave(self):
        redis = self.redis()
        nodes = [self.machine(ROLLCALL_REDIS=f"redis://127.0.0.1:{redis}", ROLLCALL_NODE_ID=name) for name in ("a", "b")]
        for node in nodes:
            with open(node.path("/etc/rollcall/rollcall.toml"), "a") as file:
                file.write("history = 7\n")
            node.start()
        users = [Roaming(self, user, list(nodes)) for user in USERS]
        for user in users:
            wait_until(f"all users for {user.user}", lambda: user.members == set(USERS))
        before = {user.user: len(user.changes()) for user in users}
        for node in nodes:
            node.install(NEXT_PACKAGE)
            # What the script of the package asks systemd to do.
            self.assertEqual(node.stop(), 0)
            node.start()
            wait_until("a ready node", node.is_ready)
            self.assertEqual(node.run("dpkg-query", "--show", "--showformat", "${Version}", "rollcall"), "99.0-1")
            self.assertIn("ROLLCALL_NODE_ID", node.path("/etc/default/rollcall").read_text(), "settings stay")
            self.assertIn("history = 7", node.path("/etc/rollcall/rollcall.toml").read_text(), "settings stay")
            self.assertIn("# Another help text", node.path(TEMPLATE).read_text())
        for user in users:
            wait_until(f"all users for {user.user}", lambda: user.members == set(USERS))
            self.assertGreater(len(user.observers), 1, "each user has lost a node")
            self.assertEqual(user.changes()[before[user.user]:], [], f"{user.user} saw a user leave or join again")
            for observer in user.observers[1:]:
                self.assertEqual(set(observer.members), set(USERS))
            user.close()
