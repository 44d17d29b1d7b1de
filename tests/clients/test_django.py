"""The Django project of docs/django with a real Django, a real server, nginx as docs/django.md has it, and pages in Chromium."""
import contextlib, http.cookiejar, json, pathlib, re, shutil, subprocess, sys, tempfile, urllib.error, urllib.parse, urllib.request
from harness import Case, DEADLINE, ENVIRONMENT, ROOT, STEADY, accepts, connect, free_port, wait_until
from websockets.exceptions import InvalidStatus

MANAGE = [sys.executable, str(ROOT / "docs" / "django" / "manage.py")]
TOKEN = "only-known-to-this-test"
PASSWORD = "correct horse battery staple"


NGINX = """
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream rollcall {{ server 127.0.0.1:{rollcall}; }}
    upstream django {{ server 127.0.0.1:{django}; }}
    server {{
        listen 127.0.0.1:{port};
        {documented}
    }}
}}
"""


class Visitor:
    """A browser as far as Django is concerned: cookies, and forms with their token."""

    def __init__(self, site):
        self.site = site
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

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


class Site(Case):
    """Django with two accounts, beside a server and a native observer of it."""

    @classmethod
    def setUpClass(cls):
        """The accounts: passwords take their time to hash, so each test begins with a copy."""
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.accounts = pathlib.Path(folder.name) / "accounts.sqlite3"
        environment = {**ENVIRONMENT, "DATABASE": str(cls.accounts), "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
                       "DJANGO_SUPERUSER_EMAIL": "", "PYTHONDONTWRITEBYTECODE": "1"}
        create = ["createsuperuser", "--noinput", "--verbosity", "0", "--username"]
        for words in ["check", "--fail-level", "WARNING"], ["migrate", "--verbosity", "0"], [*create, "alice"], [*create, "bob"]:
            subprocess.run([*MANAGE, *words], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE)

    def setUp(self):
        self.port = free_port()
        self.site = f"http://127.0.0.1:{self.port}"
        self.rollcall = self.server(*STEADY, "--admin-token", TOKEN)
        self.watcher = self.observer(self.rollcall, joins=False)
        environment = {**ENVIRONMENT, "DATABASE": shutil.copy(self.accounts, self.folder()), "ROLLCALL_URL": self.presence_url(),
                       "ROLLCALL_NODES": self.rollcall.http, "ROLLCALL_ADMIN_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1"}
        self.django = self.program(*MANAGE, "runserver", "--noreload", f"127.0.0.1:{self.port}", env=environment)
        wait_until(lambda: f"Django: {self.django.text()}", lambda: accepts(self.port))

    def presence_url(self):
        return self.rollcall.http


class TwoHosts(Site):
    """Pages connect to rollcall at its own address."""

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

    def look_at_the_page(self, user):
        return self.node("django-page.mjs", self.site, user, PASSWORD)

    def shows(self, page, **people):
        page.said(f"{people}", lambda line: json.loads(line) == people)

    def test_the_page_shows_who_comes_and_goes(self):
        alice = self.look_at_the_page("alice")
        self.shows(alice, alice="online", bob="offline")
        bob = self.look_at_the_page("bob")
        self.shows(bob, alice="online", bob="online")
        self.shows(alice, alice="online", bob="online")
        alice.lines.clear()
        bob.finish()
        self.shows(alice, alice="online", bob="offline")
        self.assertEqual([line for line in alice.lines + bob.lines if "complaint" in line], [])

    def test_the_other_window_of_who_signs_out_comes_back(self):
        one, other = map(self.look_at_the_page, ["alice", "alice"])
        for page in one, other:
            self.shows(page, alice="online", bob="offline")
            page.lines.clear()
        one.tell("sign out")
        one.said("the sign-in form", lambda line: json.loads(line) == {"path": "/login"})
        # The other window has a session of its own. It may be back within a tick, and then nobody sees that it was away.
        other.said("the page again", lambda line: json.loads(line) == {"path": "/"})
        self.shows(other, alice="online", bob="offline")

    def test_another_window_of_the_same_browser_is_signed_out_too(self):
        page = self.look_at_the_page("alice")
        self.shows(page, alice="online", bob="offline")
        page.tell("second window")
        page.said("the page once more", lambda line: json.loads(line) == {"second": "/"})
        self.watcher.sees("alice")
        page.lines.clear()
        page.tell("sign out")
        page.said("both sign-in forms", lambda line: json.loads(line) == {"path": "/login"})
        page.said("both sign-in forms", lambda line: json.loads(line) == {"second": "/login"})
        self.watcher.misses("alice")

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


class OneHost(Site):
    """nginx before both, which asks Django who may connect to rollcall as whom."""

    def presence_url(self):
        self.front = free_port()
        return f"http://127.0.0.1:{self.front}"

    def setUp(self):
        super().setUp()
        folder = self.folder()
        (documented,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "django.md").read_text(), re.DOTALL)
        file = folder / "nginx.conf"
        file.write_text(NGINX.format(folder=folder, rollcall=self.rollcall.port, django=self.port, port=self.front, documented=documented))
        nginx = self.program("/usr/sbin/nginx", "-p", folder, "-e", "stderr", "-c", file, "-g", "daemon off;")
        wait_until(lambda: f"nginx: {nginx.text()}", lambda: accepts(self.front))
        self.site = f"http://127.0.0.1:{self.front}"

    def test_everybody_speaks_for_themselves(self):
        alice = Visitor(self.site)
        presence = presence_of(alice.sign_in("alice"))
        self.assertEqual(presence["url"], self.site)
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in alice.cookies)

        def status(query, **headers):
            """101 is the answer to a WebSocket."""
            url = f"{self.site.replace('http', 'ws', 1)}/v1/connect?{query}"
            try:
                with connect(url, additional_headers=headers) as socket:
                    return socket.response.status_code
            except InvalidStatus as refused:
                return refused.response.status_code
        self.assertEqual(status("user=alice&room=lobby", Cookie=cookies), 101)
        for query in ["user=bob", "user=bob&user=alice", "user=alice&user=bob", "room=lobby", "user=", ""]:
            self.assertEqual(status(query, Cookie=cookies), 403, query)
        self.assertEqual(status("user=alice"), 403)
        self.assertEqual(status("user="), 403)
