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
