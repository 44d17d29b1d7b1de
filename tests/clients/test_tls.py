"""The TLS port as sslyze sees it: versions, ciphers and known attacks. The certificate is made here."""
import os, subprocess, tempfile

import sslyze
from sslyze import ScanCommand, ScanCommandAttemptStatusEnum

from harness import BASE_FLAGS, BINARY, Case, DEADLINE, Program, free_port

ATTACKS = {ScanCommand.HEARTBLEED, ScanCommand.OPENSSL_CCS_INJECTION, ScanCommand.ROBOT, ScanCommand.TLS_COMPRESSION,
           ScanCommand.SESSION_RENEGOTIATION, ScanCommand.TLS_FALLBACK_SCSV, ScanCommand.TLS_1_3_EARLY_DATA,
           ScanCommand.TLS_EXTENDED_MASTER_SECRET}
OLD = {ScanCommand.SSL_2_0_CIPHER_SUITES, ScanCommand.SSL_3_0_CIPHER_SUITES, ScanCommand.TLS_1_0_CIPHER_SUITES,
       ScanCommand.TLS_1_1_CIPHER_SUITES}
PRESENT = {ScanCommand.TLS_1_2_CIPHER_SUITES, ScanCommand.TLS_1_3_CIPHER_SUITES}


class Tls(Case):
    def scan(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        certificate, key = (os.path.join(folder.name, name) for name in ("certificate", "key"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj",
                        "/CN=localhost", "-keyout", key, "-out", certificate], check=True, capture_output=True)
        port = free_port()
        flags = ["--tls-cert", certificate, "--tls-key", key]
        server = Program(BINARY, "--listen", f"127.0.0.1:{port}", *BASE_FLAGS, *flags)
        self.addCleanup(server.stop)
        server.expect("the address", lambda line: f"open https://127.0.0.1:{port}" in line)
        location = sslyze.ServerNetworkLocation(hostname="localhost", ip_address="127.0.0.1", port=port)
        # The default of five seconds is too short on a busy machine: sslyze takes a late answer for a refusal.
        network = sslyze.ServerNetworkConfiguration("localhost", network_timeout=DEADLINE)
        scanner = sslyze.Scanner()
        commands = ATTACKS | OLD | PRESENT
        scanner.queue_scans([sslyze.ServerScanRequest(location, network_configuration=network, scan_commands=commands)])
        result, = scanner.get_results()
        self.assertIsNotNone(result.scan_result, result.connectivity_error_trace)

        def result_of(command):
            attempt = getattr(result.scan_result, command.value)
            is_complete = attempt.status == ScanCommandAttemptStatusEnum.COMPLETED
            self.assertTrue(is_complete, f"{command}: {attempt.error_trace}")
            return attempt.result
        return result_of

    def test_only_present_versions_with_forward_secrecy_and_no_known_attack(self):
        result_of = self.scan()
        for command in OLD:
            self.assertEqual(result_of(command).accepted_cipher_suites, [], command)
        for command in PRESENT:
            names = [suite.cipher_suite.name for suite in result_of(command).accepted_cipher_suites]
            self.assertTrue(names, command)
            for name in names:
                self.assertTrue(name.startswith(("TLS_ECDHE_", "TLS_AES_", "TLS_CHACHA20_")), name)
                self.assertTrue(name.endswith(("_GCM_SHA256", "_GCM_SHA384", "_POLY1305_SHA256")), name)
        self.assertFalse(result_of(ScanCommand.HEARTBLEED).is_vulnerable_to_heartbleed)
        self.assertFalse(result_of(ScanCommand.OPENSSL_CCS_INJECTION).is_vulnerable_to_ccs_injection)
        self.assertTrue(result_of(ScanCommand.ROBOT).robot_result.name.startswith("NOT_VULNERABLE"))
        self.assertFalse(result_of(ScanCommand.TLS_COMPRESSION).supports_compression)
        renegotiation = result_of(ScanCommand.SESSION_RENEGOTIATION)
        self.assertTrue(renegotiation.supports_secure_renegotiation)
        self.assertFalse(renegotiation.is_vulnerable_to_client_renegotiation_dos)
        self.assertTrue(result_of(ScanCommand.TLS_FALLBACK_SCSV).supports_fallback_scsv)
        self.assertTrue(result_of(ScanCommand.TLS_EXTENDED_MASTER_SECRET).supports_ems_extension)
        self.assertFalse(result_of(ScanCommand.TLS_1_3_EARLY_DATA).supports_early_data)
