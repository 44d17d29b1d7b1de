"""The Django project of docs/django, with a real server that asks it who clients are, and pages in Chromium."""
import contextlib, functools, http.cookiejar, json, pathlib, re, shutil, subprocess, sys, tempfile, time
import unittest, urllib.error, urllib.parse, urllib.request
from harness import Case, DEADLINE, DEFAULT_TIMES, ENVIRONMENT, HERE, ROOT
from harness import accepts, connect, free_port, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus

MANAGE = [sys.executable, str(ROOT / "docs" / "django" / "manage.py")]
API_KEY = "known-to-this-test-only"
AUTH_SECRET = "known-to-rollcall-and-to-the-application"
PASSWORD = "correct horse battery staple"
TRY_AGAIN = 1013
PROJECT = {**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1", "ROLLCALL_AUTH_SECRET": AUTH_SECRET}
# With a fast password hash.
FAST_PROJECT = {**PROJECT, "DJANGO_SETTINGS_MODULE": "django_settings", "PYTHONPATH": str(HERE)}

def attempt(url, headers):
    """The connection once rollcall has welcomed it, or else the close code or the HTTP status of the refusal. rollcall
    waits two seconds for Django. On a busy machine that may be too short, and then clients are told to try again."""
    code, deadline = TRY_AGAIN, time.monotonic() + DEADLINE
    while code == TRY_AGAIN and time.monotonic() < deadline:
        try:
            socket = connect(url, subprotocols=["presence.v1"], additional_headers=headers)
        except InvalidStatus as refused:
            return refused.response.status_code
        try:
            socket.recv(timeout=DEADLINE)
            return socket
        except ConnectionClosed:
            code = socket.close_code
    return code


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

    def headers(self):
        """What a browser sends with a WebSocket handshake of the page."""
        return {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies), "Origin": self.site}

    def sign_out(self, page):
        path, _ = self.submit("/logout", page)
        assert path == "/login", path


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
    for user in "alice", "bob", "observer":
        manage(FAST_PROJECT, "createsuperuser", "--noinput", "--verbosity", "0", "--username", user)
    return path


class Site(Case):
    """Django with three accounts, a rollcall server that asks it, and a native observer with the third account."""

    def setUp(self):
        self.port = free_port()
        self.site = f"http://127.0.0.1:{self.port}"
        self.rollcall = self.server(*DEFAULT_TIMES, "--api-key", API_KEY, "--auth-secret", AUTH_SECRET,
                                    "--auth-url", f"{self.site}/presence/auth", "--auth-cookie", "sessionid",
                                    "--origin", self.site)
        environment = {**FAST_PROJECT, "DATABASE": shutil.copy(database(), self.folder()),
                       "ROLLCALL_URL": self.rollcall.http, "ROLLCALL_API_KEY": API_KEY}
        self.django = self.program(*MANAGE, "runserver", "--noreload", f"127.0.0.1:{self.port}", env=environment)
        wait_until(lambda: f"Django: {self.django.text()}", lambda: accepts(self.port))
        _, observer = self.signed_in("observer")
        # The first answer of Django takes longest.
        attempt(self.url(), observer.headers()).close()
        self.lobby = self.observer(self.rollcall, joins=False, headers=observer.headers())

    def signed_in(self, user):
        visitor = Visitor(self.site)
        return visitor.sign_in(user), visitor

    def url(self, **query):
        return f"{self.rollcall.websocket}/v1/connect?{urllib.parse.urlencode(query)}"

    def opened(self, visitor, **query):
        """The connection that presence.js opens for the page."""
        return attempt(self.url(room="lobby", **query), visitor.headers())

    def open_page(self, user):
        return self.node("django-page.mjs", self.site, user, PASSWORD)

    def shows(self, page, **people):
        people = {**people, "observer": "offline"}
        page.expect(f"{people}", lambda line: json.loads(line) == people)

    def test_a_user_with_a_session_can_connect_and_is_online(self):
        visitor = Visitor(self.site)
        self.assertEqual(visitor.get("/")[0], "/login?next=/", "visitors see the sign-in form")
        (_, alice), (_, bob) = self.signed_in("alice"), self.signed_in("bob")
        with self.opened(alice), self.opened(bob):
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

    def test_signing_out_works_without_rollcall(self):
        page, alice = self.signed_in("alice")
        self.lobby.close()
        self.rollcall.stop()
        alice.sign_out(page)
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
        (page, alice), (_, bob) = self.signed_in("alice"), self.signed_in("bob")
        with self.opened(alice) as socket, self.opened(bob):
            self.lobby.sees("alice", "bob")
            alice.sign_out(page)
            self.lobby.sees_none_of("alice")
            self.assertEqual(self.lobby.leave_reasons("alice"), ["kicked"])
            with contextlib.suppress(ConnectionClosed):
                while True:
                    socket.recv(timeout=DEADLINE)
            self.assertEqual(socket.close_code, 1008)
            self.lobby.sees("bob")
        self.assertEqual(alice.get("/")[0], "/login?next=/")

    def test_users_can_connect_only_as_themselves_and_only_from_pages_of_the_site(self):
        _, alice = self.signed_in("alice")
        with self.opened(alice, user="alice"):
            self.lobby.sees("alice")
        own = alice.headers()

        def refusal(headers, **query):
            """The close code of a refused identity, or the HTTP status of a refused handshake."""
            return attempt(self.url(**query), headers)
        self.assertEqual(refusal(own, user="bob"), 1008)
        self.assertEqual(refusal({"Origin": self.site}, user="alice"), 1008)
        self.assertEqual(refusal({**own, "Cookie": "sessionid=guessed"}, user="alice"), 1008)
        self.assertEqual(refusal({"Cookie": own["Cookie"]}, user="alice"), 1008)
        self.assertEqual(refusal({**own, "Origin": "http://127.0.0.1:1"}, user="alice"), 403)

    def test_rollcall_asks_again_about_the_session_and_only_rollcall_is_answered(self):
        page, alice = self.signed_in("alice")
        session = next(cookie.value for cookie in alice.cookies if cookie.name == "sessionid")

        def ask(question, secret=AUTH_SECRET, cookie=""):
            headers = {"Authorization": f"Bearer {secret}", "Cookie": cookie}
            request = urllib.request.Request(f"{self.site}/presence/auth", json.dumps(question).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as refused:
                with refused:
                    return refused.code
        recheck = {"recheck": True, "user": "alice", "session": session}
        self.assertEqual(ask(recheck), (200, {"user": "alice", "session": session}))
        self.assertEqual(ask({"claimed_user": "bob"}, cookie=f"sessionid={session}")[1]["user"], "alice")
        self.assertEqual(ask({**recheck, "session": "guessed"}), 403)
        self.assertEqual(ask({"recheck": True, "user": "alice"}, cookie=f"sessionid={session}"), 403)
        self.assertEqual(ask(recheck, secret="guessed"), 404)
        alice.sign_out(page)
        self.assertEqual(ask(recheck), 403)
