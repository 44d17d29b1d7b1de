"""A server in a terminal: SIGHUP says that the terminal is gone, so it stops the server."""
import contextlib, os, signal, subprocess

from harness import BINARY, BASE_FLAGS, Case, DEADLINE, ENVIRONMENT, free_port


class Terminal(Case):
    def start(self, *before):
        """Starts a server whose standard input is a terminal."""
        main, terminal = os.openpty()
        self.addCleanup(os.close, main)
        self.port = free_port()
        server = subprocess.Popen([*before, BINARY, "--listen", f"127.0.0.1:{self.port}", *BASE_FLAGS], stdin=terminal,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
                                  start_new_session=True)
        os.close(terminal)
        self.addCleanup(server.stdout.close)
        self.addCleanup(self.end, server)
        while "open http" not in server.stdout.readline():
            self.assertIsNone(server.poll())
        return server

    @staticmethod
    def end(server):
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        server.wait(DEADLINE)

    def test_sighup_stops_a_server_in_a_terminal(self):
        server = self.start()
        server.send_signal(signal.SIGHUP)
        self.assertEqual(server.wait(DEADLINE), 0)
        self.assertNotIn("nothing to reload", server.stdout.read())

    def test_a_server_that_nohup_starts_ignores_sighup(self):
        server = self.start("nohup")
        server.send_signal(signal.SIGHUP)
        observer = self.observer(None, websocket=f"ws://127.0.0.1:{self.port}")
        observer.sees("observer")
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(DEADLINE), 0)
        self.assertEqual(observer.close_code or 1012, 1012)
