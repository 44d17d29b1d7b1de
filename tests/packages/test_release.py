"""scripts/release and scripts/licenses: what they accept and what they refuse. scripts/judges builds a whole release twice."""
import importlib.machinery, importlib.util, os, re, shutil, subprocess, sys

from harness import BINARY, Case, DEADLINE, ROOT


def script(name):
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


RELEASE, LICENSES = script("release"), script("licenses")
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@rollcall.invalid", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]


class Releases(Case):
    def project(self):
        """A repository with the files that state the version."""
        folder = self.folder()
        for name in {file for file, _ in RELEASE.STATEMENTS} | {"CHANGELOG.md", "scripts/release"}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.git(folder, "init", "--quiet")
        self.commit(folder)
        return folder

    def git(self, folder, *arguments):
        subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True)

    def commit(self, folder):
        self.git(folder, "add", "--all")
        self.git(folder, "commit", "--quiet", "--message", "a commit")

    def release(self, folder, *options):
        done = subprocess.run([folder / "scripts/release", *options], capture_output=True, text=True, timeout=DEADLINE)
        return done.returncode, done.stdout + done.stderr

    def replace(self, path, pattern, text):
        before = path.read_text()
        after = re.sub(pattern, text, before, count=1, flags=re.MULTILINE)
        self.assertNotEqual(before, after)
        path.write_text(after)

    def test_all_files_and_the_program_state_the_same_version(self):
        code, text = self.release(ROOT, "--check")
        self.assertEqual(code, 0, text)
        program = subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout.split()[1]
        self.assertEqual(text, f"all files state version {program}\n")
        for folder in "", "loadtest", "loadtest/adversary", "loadtest/wire":
            self.assertIn("version.workspace = true", (ROOT / folder / "Cargo.toml").read_text())

    def test_each_file_with_another_version_is_found(self):
        for file, pattern in RELEASE.STATEMENTS[1:]:
            folder = self.project()
            found = re.search(pattern, (folder / file).read_text(), re.MULTILINE)
            text = (folder / file).read_text()
            (folder / file).write_text(text[:found.start(1)] + "98.7.6" + text[found.end(1):])
            code, text = self.release(folder, "--check")
            self.assertEqual(code, 1)
            self.assertIn(f"{file} states 98.7.6", text)

    def test_a_new_version_is_written_to_all_files(self):
        folder = self.project()
        self.assertEqual(self.release(folder, "--set", "98.7.6")[0], 0)
        self.assertEqual(self.release(folder, "--check"), (0, "all files state version 98.7.6\n"))
        self.assertEqual(self.release(folder, "--set", "98.7")[0], 2)

    def test_versions_in_the_changelog_are_in_order_and_not_later(self):
        folder = self.project()
        self.replace(folder / "CHANGELOG.md", "^## Unreleased$", "## 99.0.0 – 2026-01-02")
        code, text = self.release(folder, "--check")
        self.assertEqual(code, 1)
        self.assertIn("CHANGELOG.md has the versions 99.0.0", text)

    def test_it_refuses_changes_a_missing_entry_and_an_existing_tag(self):
        folder = self.project()
        (folder / "new").write_text("a change\n")
        refused = lambda what: self.assertRegex(self.release(folder)[1], what)
        refused("the work tree has changes")
        (folder / "new").unlink()
        refused("CHANGELOG.md has no entry for this version")
        version = RELEASE.check_versions()
        self.replace(folder / "CHANGELOG.md", "^## Unreleased$", f"## {version} – 2026-01-02")
        self.commit(folder)
        self.git(folder, "tag", f"v{version}")
        refused(f"the tag v{version} exists")

    def test_missing_programs_are_installed_at_the_start(self):
        folder = self.project()
        installer, programs = folder / "scripts/install", folder / "programs"
        installer.write_text("#!/bin/sh\nexec >&2\necho would install $*\nexit 100\n")
        installer.chmod(0o755)
        programs.mkdir()
        for name in set(RELEASE.TOOLS) - {"npm", "xz"}:
            (programs / name).symlink_to(shutil.which(name))
        done = subprocess.run([sys.executable, folder / "scripts/release", "--rehearse"], capture_output=True, text=True, timeout=DEADLINE,
                              env={"PATH": str(programs)})
        self.assertEqual(done.returncode, 1)
        self.assertIn("would install npm xz-utils\n", done.stderr)
        self.assertRegex(done.stderr, r"release: \S+/scripts/install npm xz-utils failed with exit code 100")

    def test_a_program_that_cannot_be_run_is_named(self):
        folder = self.project()
        done = subprocess.run([sys.executable, folder / "scripts/release"], capture_output=True, text=True, timeout=DEADLINE,
                              env={"PATH": str(folder / "deploy")})
        self.assertEqual((done.returncode, done.stderr), (1, "release: git: No such file or directory\n"))

    def test_archives_have_the_same_bytes_for_other_times_and_permissions(self):
        packed = []
        for time, mask in (1_000_000_000, 0o22), (1_500_000_000, 0o77):
            before = os.umask(mask)
            try:
                folder = self.folder() / "rollcall-1.2.3"
                folder.mkdir()
                for name in ("b", "a") if mask == 0o77 else ("a", "b"):
                    (folder / name).write_text(name)
                    os.utime(folder / name, (time, time))
            finally:
                os.umask(before)
            RELEASE.pack(folder, "1400000000")
            packed.append((folder.parent / "rollcall-1.2.3.tar.gz").read_bytes())
        self.assertEqual(packed[0], packed[1])


class Licences(Case):
    def test_all_dependencies_have_accepted_licences_and_texts(self):
        file = self.folder() / "licences"
        done = subprocess.run([ROOT / "scripts/licenses", file], capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = file.read_text()
        # A crate, a C library in one, and the standard library.
        for what in "\ntokio 1.", "mimalloc", "AWS-LC", "the Rust standard library":
            self.assertIn(what, text)

    def test_expressions(self):
        for expression in "MIT", "MIT/GPL-3.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception":
            self.assertTrue(LICENSES.accepts(expression), expression)
        for expression in "GPL-3.0", "none", "MIT AND GPL-3.0", "ISC AND (GPL-3.0 OR MPL-2.0)", "GPL-2.0 WITH Classpath-exception-2.0", \
                "MIT AND (ISC OR Zlib) AND GPL-3.0":
            self.assertFalse(LICENSES.accepts(expression), expression)
