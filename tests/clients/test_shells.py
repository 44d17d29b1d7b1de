"""The completions in real shells, and the manual page in real readers."""
import contextlib, os, pty, re, select, shutil, subprocess, tempfile, time

from harness import BINARY, Case, DEADLINE, ENVIRONMENT

FLAGS = {"--max-connections", "--max-memory", "--max-rooms", "--max-state"}


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, env=ENVIRONMENT, **options)


def script(shell):
    return run(BINARY, "completions", shell, check=True).stdout


class Shells(Case):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_bash_completes_flags_commands_and_values(self):
        path = self.write("rollcall.bash", script("bash"))
        ask = """set -eu; source "$1"; COMP_WORDS=(rollcall "${@:2}"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                 _rollcall rollcall "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
                 printf '%s\\n' "${COMPREPLY[@]}" """

        def complete(*words):
            asked = run("bash", "--norc", "-c", ask, "bash", path, *words)
            self.assertEqual((asked.returncode, asked.stderr), (0, ""))
            return set(asked.stdout.split())

        self.assertEqual(complete("--max-"), FLAGS)
        self.assertEqual(complete("heal"), {"health"})
        self.assertEqual(complete("--log-format", ""), {"text", "json"})

    def test_fish_completes_flags_commands_and_values(self):
        path = self.write("rollcall.fish", script("fish"))

        def complete(line):
            # Without the settings of a user, and without a terminal.
            asked = run("fish", "--no-config", "-c", f"source {path}; complete --do-complete '{line}'")
            self.assertEqual((asked.returncode, asked.stderr), (0, ""))
            return {word.split("\t")[0] for word in asked.stdout.splitlines()}

        self.assertEqual(complete("rollcall --max-"), FLAGS)
        self.assertEqual(complete("rollcall heal"), {"health"})
        self.assertEqual(complete("rollcall --log-format="), {"--log-format=text", "--log-format=json"})

    def test_zsh_completes_flags(self):
        self.write("_rollcall", script("zsh"))
        # zsh completes only in a terminal.
        self.write(".zshrc", f"PS1='ready> '; fpath=({self.folder} $fpath); autoload -U compinit; compinit -u -D\n"
                             "setopt no_always_last_prompt; zstyle ':completion:*' list-prompt ''; LISTMAX=500\n")
        environment = ENVIRONMENT | {"ZDOTDIR": self.folder, "TERM": "dumb", "PATH": os.environ["PATH"]}
        child, terminal = pty.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                os.execvpe("zsh", ["zsh", "-d", "-i"], environment)
            os._exit(127)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.close, terminal)
        self.read_until(terminal, r"ready> ")
        os.write(terminal, b"rollcall --max-\t\t")
        shown = self.read_until(terminal, *FLAGS)
        self.assertNotIn("command not found", shown)

    def read_until(self, terminal, *patterns):
        shown, deadline = "", time.monotonic() + DEADLINE
        while not all(re.search(pattern, shown) for pattern in patterns):
            ready, _, _ = select.select([terminal], [], [], 1)
            self.assertLess(time.monotonic(), deadline, shown)
            shown += os.read(terminal, 65536).decode(errors="replace") if ready else ""
        return shown

    def test_the_manual_page_is_valid_and_complete(self):
        page = self.write("rollcall.8", run(BINARY, "man", check=True).stdout)
        checked = run("mandoc", "-T", "lint", "-W", "warning", page)
        # The page has no date: it is made at any time.
        wrong = [line for line in checked.stdout.splitlines() if "missing date" not in line]
        self.assertEqual(wrong, [], checked.stderr)
        shown = run("man", "--warnings", "-E", "UTF-8", "-l", page)
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        for word in ["--max-connections", "ROLLCALL_MAX_STATE", "text, json", "EXIT STATUS", "/etc/rollcall/rollcall.toml", "health"]:
            self.assertIn(word, shown.stdout)
