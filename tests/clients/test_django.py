"""The Django project of docs/django with a real Django, a real server and, where the page is looked at, a real browser."""
import contextlib, http.cookiejar, json, re, sys, unittest, urllib.error, urllib.parse, urllib.request
from harness import Case, DEADLINE, ENVIRONMENT, ROOT, USAGE, accepts, free_port, wait_until
from websockets.sync.client import connect

PROJECT = ROOT / "docs" / "django"
TOKEN = "a token of the test's"
PASSWORD = "correct horse battery staple"
needs_kick = unittest.skipUnless("--admin-token" in USAGE, "this rollcall ends nobody's connections when told to")


class Visitor:
    """A browser as far as Django is concerned: cookies, and forms with their token."""

    def __init__(self, site):
        self.site = site
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(self, path):
        with self.opener.open(self.site + path, timeout=DEADLINE) as answer:
            return answer.url.removeprefix(self.site), answer.read().decode()

    def submit(self, path, page, **fields):
        """Fills in and sends the form of a page."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)
        form = urllib.parse.urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        with self.opener.open(self.site + path, form, timeout=DEADLINE) as answer:
            return answer.url.removeprefix(self.site), answer.read().decode()

    def sign_in(self, user):
        _, page = self.get("/login")
        path, page = self.submit("/login", page, username=user, password=PASSWORD)
        assert path == "/", page
        return page

    def sign_out(self, page):
        path, _ = self.submit("/logout", page)
        assert path == "/login", path


def presence_of(page):
    """What the page tells its script."""
    return json.loads(re.search(r'<script id="presence"[^>]*>(.*?)</script>', page).group(1))


@contextlib.contextmanager
def opened(page):
    """The page's connection, as presence.js makes it."""
    presence = presence_of(page)
    query = urllib.parse.urlencode({"user": presence["user"], "room": "lobby"})
    with connect(f"{presence['url'].replace('http', 'ws', 1)}/v1/connect?{query}", subprotocols=["presence.v1"]) as socket:
        yield socket


class Django(Case):
    def setUp(self):
        flags = ["--admin-token", TOKEN] if "--admin-token" in USAGE else []
        self.rollcall = self.server("--ttl", "5s", *flags)
        self.watcher = self.observer(self.rollcall, joins=False)
        self.environment = {**ENVIRONMENT, "DATABASE": str(self.folder() / "db.sqlite3"), "ROLLCALL_URL": self.rollcall.http,
                            "ROLLCALL_ADMIN_TOKEN": TOKEN, "DJANGO_SUPERUSER_PASSWORD": PASSWORD, "DJANGO_SUPERUSER_EMAIL": "",
                            "PYTHONDONTWRITEBYTECODE": "1"}
        self.manage("check", "--fail-level", "WARNING")
        self.manage("migrate", "--verbosity", "0")
        for user in "alice", "bob":
            self.manage("createsuperuser", "--noinput", "--username", user)
        port = free_port()
        self.django = self.started(self.run_manage("runserver", "--noreload", f"127.0.0.1:{port}"))
        wait_until(lambda: f"Django: {self.django.text()}", lambda: accepts(port))
        self.site = f"http://127.0.0.1:{port}"

    def run_manage(self, *words):
        return self.program(sys.executable, PROJECT / "manage.py", *words, env=self.environment)

    def manage(self, *words):
        command = self.run_manage(*words)
        command.finish()
        self.assertEqual(command.child.returncode, 0, command.text())

    def test_who_signs_in_is_online(self):
        alice, bob = Visitor(self.site), Visitor(self.site)
        self.assertEqual(alice.get("/")[0], "/login?next=/", "strangers see the form")
        page = alice.sign_in("alice")
        self.watcher.sees("alice")
        self.assertEqual(presence_of(page), {"url": self.rollcall.http, "user": "alice"})
        with opened(page), opened(bob.sign_in("bob")):
            self.watcher.sees("alice", "bob")
        self.watcher.misses("alice", "bob")

    def test_signing_in_and_out_works_without_rollcall(self):
        self.rollcall.stop()
        alice = Visitor(self.site)
        alice.sign_out(alice.sign_in("alice"))
        self.django.said("a warning", lambda line: "rollcall was not told of /v1/users/alice/kick" in line)

    @needs_kick
    def test_who_signs_out_is_offline_at_once(self):
        alice, bob = Visitor(self.site), Visitor(self.site)
        page = alice.sign_in("alice")
        with opened(page) as socket, opened(bob.sign_in("bob")):
            self.watcher.sees("alice", "bob")
            alice.sign_out(page)
            self.watcher.misses("alice")
            self.assertEqual(self.watcher.departures("alice"), ["kicked"])
            with contextlib.suppress(Exception):
                while True:
                    socket.recv(timeout=DEADLINE)
            self.assertEqual(socket.close_code, 1008)
            self.watcher.sees("bob")
        self.assertEqual(alice.get("/")[0], "/login?next=/")
