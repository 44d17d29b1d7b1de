//! A folder of one test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A folder of one test for its files. It is removed at the end. All users can enter it, whatever TMPDIR and the
/// umask are.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new("/tmp").join(format!("rollcall-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder can be created");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, open).expect("permissions can be changed");
        Self(path)
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file can be written");
        path.to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
