"""The Django project of docs/django, with a real server, nginx as in docs/django.md, and pages in Chromium."""
import contextlib, functools, http.cookiejar, json, pathlib, re, shutil, subprocess, sys, tempfile
import unittest, urllib.parse, urllib.request
from harness import Case, DEADLINE, DEFAULT_TIMES, ENVIRONMENT, HERE, ROOT, SHORT_LEASE
from harness import accepts, connect, free_port, wait_until
from websockets.exceptions import InvalidStatus

MANAGE = [sys.executable, str(ROOT / "docs" / "django" / "manage.py")]
ADMIN_TOKEN = "known-to-this-test-only"
PASSWORD = "correct horse battery staple"
PROJECT = {**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"}
# With a fast password hash.
FAST_PROJECT = {**PROJECT, "DJANGO_SETTINGS_MODULE": "django_settings", "PYTHONPATH": str(HERE)}

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
    """A simple browser: it keeps cookies and submits forms with their CSRF token."""

    def __init__(self, site):
        self.site = site
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path):
        with self.opener.open(self.site + path, timeout=DEADLINE) as answer:
            return answer.url.removeprefix(self.site), answer.read().decode()

    def submit(self, path, page, **fields):
        """Fills in and submits the form of a page."""
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
    """The data that the page passes to its script."""
    return json.loads(re.search(r'<script id="presence"[^>]*>(.*?)</script>', page).group(1))


@contextlib.contextmanager
def opened(page):
    """The connection that presence.js opens for the page."""
    presence = presence_of(page)
    query = urllib.parse.urlencode({"user": presence["user"], "room": "lobby"})
    with connect(f"{presence['url'].replace('http', 'ws', 1)}/v1/connect?{query}", subprotocols=["presence.v1"]) as socket:
        yield socket


@functools.cache
def database():
    """A database with the accounts, made once. Each test works on a copy."""
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    path = pathlib.Path(folder.name) / "accounts.sqlite3"
    settings = {"DATABASE": str(path), "DJANGO_SUPERUSER_PASSWORD": PASSWORD, "DJANGO_SUPERUSER_EMAIL": ""}

    def manage(environment, *words):
        command, environment = [*MANAGE, *words], {**environment, **settings}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE)
    manage(PROJECT, "check", "--fail-level", "WARNING")
    manage(FAST_PROJECT, "migrate", "--verbosity", "0")
    for user in "alice", "bob":
        manage(FAST_PROJECT, "createsuperuser", "--noinput", "--verbosity", "0", "--username", user)
    return path


class Site(Case):
    """Django with two accounts, a rollcall server, and a native observer."""

    TIMES = DEFAULT_TIMES

    def setUp(self):
        self.port = free_port()
        self.site = f"http://127.0.0.1:{self.port}"
        self.rollcall = self.server(*self.TIMES, "--admin-token", ADMIN_TOKEN)
        self.lobby = self.observer(self.rollcall, joins=False)
        environment = {**FAST_PROJECT, "DATABASE": shutil.copy(database(), self.folder()),
                       "ROLLCALL_URL": self.presence_url(), "ROLLCALL_NODES": self.rollcall.http,
                       "ROLLCALL_ADMIN_TOKEN": ADMIN_TOKEN}
        self.django = self.program(*MANAGE, "runserver", "--noreload", f"127.0.0.1:{self.port}", env=environment)
        wait_until(lambda: f"Django: {self.django.text()}", lambda: accepts(self.port))

    def presence_url(self):
        return self.rollcall.http

    def open_page(self, user):
        return self.node("django-page.mjs", self.site, user, PASSWORD)

    def shows(self, page, **people):
        page.expect(f"{people}", lambda line: json.loads(line) == people)


class Leases(Site):
    """The heartbeat that reports a sign-in keeps the user online for a lease, whose end these tests wait for."""
    TIMES = [*SHORT_LEASE, "--grace", "2s"]

    def test_a_user_who_signs_in_is_online(self):
        alice, bob = Visitor(self.site), Visitor(self.site)
        self.assertEqual(alice.get("/")[0], "/login?next=/", "visitors see the sign-in form")
        page = alice.sign_in("alice")
        self.lobby.sees("alice")
        self.assertEqual(presence_of(page), {"url": self.rollcall.http, "user": "alice"})
        with opened(page), opened(bob.sign_in("bob")):
            self.lobby.sees("alice", "bob")
        self.lobby.sees_none_of("alice", "bob")

    def test_the_page_shows_users_come_online_and_go_offline(self):
        alice = self.open_page("alice")
        self.shows(alice, alice="online", bob="offline")
        bob = self.open_page("bob")
        self.shows(bob, alice="online", bob="online")
        self.shows(alice, alice="online", bob="online")
        alice.lines.clear()
        bob.finish()
        self.shows(alice, alice="online", bob="offline")
        self.assertEqual([line for line in alice.lines + bob.lines if "error" in line], [])


class TwoHosts(Site):
    """Pages connect to rollcall at its own address."""

    def test_signing_in_and_out_works_without_rollcall(self):
        self.rollcall.stop()
        alice = Visitor(self.site)
        alice.sign_out(alice.sign_in("alice"))
        self.django.expect("a warning", lambda line: "rollcall did not answer /v1/users/alice/kick" in line)

    def test_after_signing_out_another_browser_of_the_user_reconnects(self):
        one, other = map(self.open_page, ["alice", "alice"])
        for page in one, other:
            self.shows(page, alice="online", bob="offline")
            page.lines.clear()
        one.write("sign out")
        one.expect("the sign-in form", lambda line: json.loads(line) == {"path": "/login"})
        # The other browser has its own session. It can reconnect within a tick, and then the leave is invisible.
        other.expect("the page again", lambda line: json.loads(line) == {"path": "/"})
        self.shows(other, alice="online", bob="offline")

    def test_signing_out_in_one_window_signs_out_all_windows_of_the_browser(self):
        page = self.open_page("alice")
        self.shows(page, alice="online", bob="offline")
        page.write("second window")
        page.expect("the page in a second window", lambda line: json.loads(line) == {"second": "/"})
        self.lobby.sees("alice")
        page.lines.clear()
        page.write("sign out")
        page.expect("the sign-in form", lambda line: json.loads(line) == {"path": "/login"})
        page.expect("the sign-in form in the second window", lambda line: json.loads(line) == {"second": "/login"})
        self.lobby.sees_none_of("alice")

    def test_a_user_who_signs_out_is_offline_at_once(self):
        alice, bob = Visitor(self.site), Visitor(self.site)
        page = alice.sign_in("alice")
        with opened(page) as socket, opened(bob.sign_in("bob")):
            self.lobby.sees("alice", "bob")
            alice.sign_out(page)
            self.lobby.sees_none_of("alice")
            self.assertEqual(self.lobby.leave_reasons("alice"), ["kicked"])
            with contextlib.suppress(Exception):
                while True:
                    socket.recv(timeout=DEADLINE)
            self.assertEqual(socket.close_code, 1008)
            self.lobby.sees("bob")
        self.assertEqual(alice.get("/")[0], "/login?next=/")


class OneHost(Site):
    """nginx in front of both, which asks Django whether a browser may connect as a user."""

    def presence_url(self):
        self.front = free_port()
        return f"http://127.0.0.1:{self.front}"

    def setUp(self):
        super().setUp()
        folder = self.folder()
        (documented,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "django.md").read_text(), re.DOTALL)
        file = folder / "nginx.conf"
        ports = {"rollcall": self.rollcall.port, "django": self.port, "port": self.front}
        file.write_text(NGINX.format(folder=folder, documented=documented, **ports))
        nginx = self.program("/usr/sbin/nginx", "-p", folder, "-e", "stderr", "-c", file, "-g", "daemon off;")
        wait_until(lambda: f"nginx: {nginx.text()}", lambda: accepts(self.front))
        self.site = f"http://127.0.0.1:{self.front}"

    def test_users_can_connect_only_as_themselves(self):
        alice = Visitor(self.site)
        presence = presence_of(alice.sign_in("alice"))
        self.assertEqual(presence["url"], self.site)
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in alice.cookies)

        def status(query, **headers):
            """The HTTP status of a handshake. 101 means that it succeeded."""
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
