//! A certificate authority for one test and its certificate for 127.0.0.1, created with openssl.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::redis::free_port;

pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("rollcall-tls-{}-{}", std::process::id(), free_port()));
        fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
        let certificates = Self { folder };
        fs::write(certificates.path("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("a file");
        certificates
            .openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt");
        certificates.openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout redis.key -out redis.csr");
        certificates.openssl(
            "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out redis.crt",
        );
        certificates
    }

    /// A certificate that signs itself, for 127.0.0.1, with these further arguments of openssl: `name.crt`, `name.key`.
    pub(crate) fn sign_itself(&self, name: &str, arguments: &str) {
        self.openssl(
            format!("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost {arguments} -keyout {name}.key -out {name}.crt")
                .trim(),
        );
    }

    /// A certificate of a client, signed by the authority: `client.crt`, `client.key`.
    pub(crate) fn sign_client(&self) {
        self.openssl("req -newkey rsa:2048 -nodes -subj /CN=node -keyout client.key -out client.csr");
        fs::write(self.path("usage"), "extendedKeyUsage=clientAuth\n").expect("a file");
        self.openssl("x509 -req -in client.csr -CA ca.crt -CAkey ca.key -days 2 -extfile usage -out client.crt");
    }

    /// A certificate for 127.0.0.1, signed by the authority: `name.crt`, `name.key`.
    pub(crate) fn sign(&self, name: &str) {
        self.sign_with(name, "-newkey rsa:2048");
    }

    /// The same with an ECDSA key.
    pub(crate) fn sign_ecdsa(&self, name: &str) {
        self.sign_with(name, "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1");
    }

    fn sign_with(&self, name: &str, key: &str) {
        self.openssl(&format!("req {key} -nodes -subj /CN=localhost -keyout {name}.key -out {name}.csr"));
        let sign = "x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 300 -extfile names";
        self.openssl(&format!("{sign} -in {name}.csr -out {name}.crt"));
    }

    /// A certificate with the same key that is no longer valid: `name.crt`.
    pub(crate) fn expire(&self, of: &str, name: &str) {
        let sign = "x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days -1 -extfile names";
        self.openssl(&format!("{sign} -in {of}.csr -out {name}.crt"));
    }

    /// The same key, encrypted.
    pub(crate) fn encrypt_key(&self, key: &str, encrypted: &str) {
        self.openssl(&format!("pkey -in {key} -aes256 -passout pass:sesame -out {encrypted}"));
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("a plain path").to_owned()
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(&self.folder).stdin(Stdio::null());
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("openssl: {error}. Install it with scripts/install openssl"));
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
