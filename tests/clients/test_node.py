"""The Node application of docs/node with the commands of the README: tokens of npm's jose, over TLS, in Chromium."""
import base64, http.server, json, re, shlex, shutil, subprocess, threading, urllib.error, urllib.request

from harness import (BASE_FLAGS, BINARY, Case, DEADLINE, DEFAULT_TIMES, ENVIRONMENT, PACKAGES, ROOT, accepts, free_port,
                     wait_until)

README = (ROOT / "README.md").read_text()
COMMANDS = re.search(r"## First steps to production\n.*?```\n(.*?)```", README, re.DOTALL).group(1)


class NodeApplication(Case):
    """rollcall started as the README says, and the application beside it."""

    def setUp(self):
        folder = self.folder()
        self.port, self.site_port = free_port(), free_port()
        *preparations, start = COMMANDS.replace("\\\n", " ").strip().splitlines()
        for command in preparations:
            subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True, timeout=DEADLINE)
        words = shlex.split(start, comments=True)
        self.assertEqual(words[:4], ["cargo", "run", "--release", "--"])
        flags = [*words[4:], "--listen", f"127.0.0.1:{self.port}", *BASE_FLAGS, *DEFAULT_TIMES]
        self.rollcall = self.program(BINARY, *flags, cwd=folder)
        self.rollcall.expect("the address", lambda line: f"clients connect to https://127.0.0.1:{self.port}" in line)
        application = shutil.copytree(ROOT / "docs" / "node", folder / "node", ignore=shutil.ignore_patterns("node_modules"))
        (application / "node_modules").symlink_to(PACKAGES / "node_modules")
        environment = {**ENVIRONMENT, "PORT": str(self.site_port), "ROLLCALL_URL": f"https://localhost:{self.port}",
                       "ROLLCALL_JWT_SECRET_FILE": str(folder / "jwt-secret.txt")}
        self.application = self.program("node", "server.mjs", cwd=application, env=environment)
        wait_until(lambda: f"the application: {self.application.text()}", lambda: accepts(self.site_port))
        self.site = f"http://localhost:{self.site_port}"

    def open_page(self, user):
        return self.node("node-page.mjs", self.site, user)

    def shows(self, page, *people, state=None):
        def matches(line):
            event = json.loads(line)
            return event.get("people") == list(people) and state in (None, event["state"])
        page.expect(f"{people}", matches)

    def post(self, path, **headers):
        request = urllib.request.Request(self.site + path, b"", headers)
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.headers, json.load(answer)

    def test_pages_show_who_is_online_with_the_names_of_the_tokens(self):
        alice = self.open_page("alice")
        self.shows(alice, "ALICE", state="You are alice.")
        bob = self.open_page("bob")
        self.shows(bob, "ALICE", "BOB", state="You are bob.")
        self.shows(alice, "ALICE", "BOB")
        alice.lines.clear()
        bob.write("sign out")
        self.shows(alice, "ALICE")
        self.assertEqual([line for line in alice.lines if "error" in line], [])

    def test_the_token_endpoint_checks_the_session_and_no_other_site_can_read_its_answer(self):
        for cookie in "", "session=", "session=0123456789abcdef":
            with self.assertRaises(urllib.error.HTTPError) as refused:
                self.post("/presence-token", Cookie=cookie)
            self.assertEqual(refused.exception.code, 401)
            refused.exception.close()
        session = self.session_of("alice")
        headers, answer = self.post("/presence-token", Cookie=session, Origin="https://evil.example")
        self.assertEqual([name for name in headers if name.lower().startswith("access-control")], [])
        payload = answer["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.assertEqual((claims["sub"], claims["exp"] - claims["iat"]), ("alice", 300))
        page = self.open_page("alice")
        self.shows(page, "ALICE")
        page.write(f"steal {self.page_of_another_site()}")
        stolen = json.loads(page.expect("the attack", lambda line: "stolen" in line))
        self.assertRegex(stolen["stolen"], "^nothing: TypeError")

    def session_of(self, user):
        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None
        opener = urllib.request.build_opener(NoRedirect)
        with self.assertRaises(urllib.error.HTTPError) as redirect:
            opener.open(self.site + "/sign-in", f"user={user}".encode(), timeout=DEADLINE)
        cookie = redirect.exception.headers["set-cookie"]
        redirect.exception.close()
        self.assertIn("HttpOnly; SameSite=Lax", cookie)
        return cookie.split(";")[0]

    def page_of_another_site(self):
        """A page that requests a token with the cookies of the user. The host is the same, so the browser sends them."""
        attack = f"""<!doctype html><title></title><link rel="icon" href="data:,"><script type="module">
            try {{
                const answer = await fetch("{self.site}/presence-token", {{ method: "POST", credentials: "include" }});
                document.title = await answer.text();
            }} catch (error) {{
                document.title = "nothing: " + error;
            }}
        </script>"""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(attack.encode())

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://localhost:{server.server_port}/"
